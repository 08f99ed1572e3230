"""What a metric is: what a sample adds to it, and how sums over samples become its value.

Everything that is published of a metric (score, interval, paired test, control, category, gate, comparison) is made by
its `combine` from sums over samples. Light on imports: what needs numpy imports it when something is scored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, ParamSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Arguments = ParamSpec("Arguments")
Row = tuple[float, ...]
Direction = Literal["higher", "lower", "neither"]
Form = Literal["share", "mean", "counts"]
Pooling = Literal["sum", "all"]

SIGNS: dict[Direction, int] = {"higher": 1, "lower": -1, "neither": 0}
"""What a larger value is worth."""


def mean(sums: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the mean of what was summed as (value, 1)."""
    return sums[:, 0] / sums[:, 1]


def always(units: "NDArray[np.float64]") -> bool:
    """Tell that any units are enough."""
    return True


@dataclass(frozen=True, kw_only=True)
class Metric(Generic[Arguments]):
    """A metric of a set of samples that depends on sums over the samples alone.

    Attributes:
        name: What tasks, gates and files call it.
        label: Its name for people.
        per_sample: What one sample adds: k numbers.
        combine: The metric of sums, float64 [r, k] to [r]; r sets of samples are scored at once.
        version: Raised whenever the same answers would give another value; kept with every stored statistic.
        unit: What its values are, once they are multiplied by 100.
        full_scale: Where the axis of its charts ends, in points; None to fit the values.
        direction: Whether a "higher" or "lower" value is better, or "neither".
        form: What one sample's own value is. "share": it is right or wrong, and the metric is the share of right ones; its
            interval is Wilson's and its paired test McNemar's. "mean": a number, whose mean is the metric; both add
            (value, 1). "counts": it has none, and the metric is a function of what is counted over the samples.
        pooling: What the samples of a group add that is resampled as one: the "sum" of what they add, or the least of it,
            column by column, so that a group is right where "all" its samples are. "all" needs groups.
        resamplable: Whether units, float64 [units, k], are enough for an interval by resampling them. They are not where the
            metric adds up parts, and a resample easily misses all units of one.
    """

    name: str
    label: str
    per_sample: Callable[Arguments, Row]
    combine: "Callable[[NDArray[np.float64]], NDArray[np.float64]]" = mean
    version: int = 1
    unit: str
    full_scale: float | None = None
    direction: Direction = "higher"
    form: Form
    pooling: Pooling = "sum"
    resamplable: "Callable[[NDArray[np.float64]], bool]" = always

    @property
    def key(self) -> str:
        """Name and version: what stored statistics belong to."""
        return f"{self.name}@{self.version}"


def ratio(above: "NDArray[np.float64]", below: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the quotient, 0 where there is nothing to divide by."""
    import numpy as np

    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
