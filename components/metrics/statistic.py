"""What a set of samples adds to a metric: scored, cut into groups of samples, resampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from components.metrics.intervals import Floats, Resamples
from components.metrics.metric import Form, Metric, Row


@dataclass(frozen=True)
class Statistic:
    """A metric's sufficient statistics of a set of samples.

    Attributes:
        metric: The metric.
        parts: What every sample adds, float64 [samples, k].
        groups: Group of every sample, where groups are what is resampled; None where every sample stands for itself.

    Raises:
        ValueError: The metric judges whole groups, and there are none; or samples add what its form doesn't allow.
    """

    metric: Metric[...]
    parts: Floats
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the groups and the form."""
        if self.metric.pooling == "all" and self.groups is None:
            raise ValueError(f"{self.metric.name} judges groups of samples, but no groups are given")
        if self.groups is not None and len(self.groups) != len(self.parts):
            raise ValueError(f"{len(self.groups)} groups for {len(self.parts)} samples of {self.metric.name}")
        if self.metric.form != "counts" and not (self.parts.shape[1:] == (2,) and (self.parts[:, 1] == 1).all()):
            raise ValueError(
                f"{self.metric.name} is a {self.metric.form}: its samples must add (value, 1), or its form is counts"
            )

    @classmethod
    def of(cls, metric: Metric[...], rows: Sequence[Row] | Floats, groups: Sequence[str] | None = None) -> Self:
        """Return the statistic of what every sample adds."""
        return cls(metric, np.asarray(rows, dtype=np.float64), None if groups is None else tuple(groups))

    @cached_property
    def units(self) -> Floats:
        """What every unit that is resampled adds, float64 [units, k]: a sample, or a group in the order of first members."""
        if self.groups is None:
            return self.parts
        places = {name: place for place, name in enumerate(dict.fromkeys(self.groups))}
        rows = [places[name] for name in self.groups]
        if self.metric.pooling == "all":
            units = np.full((len(places), self.parts.shape[1]), np.inf)
            np.minimum.at(units, rows, self.parts)
        else:
            units = np.zeros((len(places), self.parts.shape[1]))
            np.add.at(units, rows, self.parts)
        return units

    @property
    def unit_form(self) -> Form:
        """The form of what units add: the metric's own, but sums of groups are counts."""
        return self.metric.form if self.groups is None or self.metric.pooling == "all" else "counts"

    @property
    def is_share(self) -> bool:
        """Whether it is the share of right units, each of which stands for itself."""
        return self.unit_form == "share"

    @property
    def has_interval(self) -> bool:
        """Whether its units are enough for an interval."""
        return self.metric.resamplable(self.units)

    def value(self) -> float:
        """Return the metric of the whole set."""
        return float(self.metric.combine(self.units.sum(axis=0, keepdims=True))[0])

    def resampled(self, resamples: Resamples) -> Floats:
        """Return the metric of every resample of the units."""
        return self.metric.combine(resamples.sums(self.units))

    def chosen(self, rows: NDArray[np.bool_]) -> "Statistic":
        """Return the statistic of the chosen samples alone."""
        groups = self.groups
        kept = None if groups is None else tuple(name for name, wanted in zip(groups, rows, strict=True) if wanted)
        return Statistic(self.metric, self.parts[rows], kept)
