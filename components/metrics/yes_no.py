"""Metrics of questions whose answer is yes or no; "yes" is what is to be found."""

from typing import TYPE_CHECKING

from components.metrics.metric import Metric, Row, ratio

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def outcome(said_yes: bool, is_yes: bool) -> Row:
    """Return true positives, false positives, false negatives and true negatives of one answer."""
    return (
        float(said_yes and is_yes),
        float(said_yes and not is_yes),
        float(is_yes and not said_yes),
        float(not said_yes and not is_yes),
    )


def said_yes(yes: bool) -> Row:
    """Return what an answer adds to the share of yes."""
    return float(yes), 1.0


def precision(sums: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the share of right ones among the yes that were said; 0 where none was."""
    return ratio(sums[:, 0], sums[:, 0] + sums[:, 1])


def recall(sums: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the share of the true yes that was found; 0 where there is none."""
    return ratio(sums[:, 0], sums[:, 0] + sums[:, 2])


def f1(sums: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the harmonic mean of precision and recall; 0 where no yes was said and none is true."""
    return ratio(2 * sums[:, 0], 2 * sums[:, 0] + sums[:, 1] + sums[:, 2])


PRECISION = Metric(
    name="precision",
    label="Precision",
    per_sample=outcome,
    combine=precision,
    unit="per cent",
    full_scale=100.0,
    form="counts",
)
RECALL = Metric(
    name="recall", label="Recall", per_sample=outcome, combine=recall, unit="per cent", full_scale=100.0, form="counts"
)
F1 = Metric(name="f1", label="F1", per_sample=outcome, combine=f1, unit="per cent", full_scale=100.0, form="counts")
YES_RATIO = Metric(
    name="yes_ratio",
    label="Yes ratio",
    per_sample=said_yes,
    unit="per cent of answers that are yes",
    full_scale=100.0,
    direction="neither",
    form="mean",
)
