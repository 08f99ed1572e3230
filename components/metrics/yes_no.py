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


def outcome_of_group(said_yes: bool, is_yes: bool, group: int, groups: int) -> Row:
    """Return the outcome in the four columns of the answer's group, 0 in those of every other one.

    Args:
        said_yes: Whether the answer is yes.
        is_yes: Whether yes is right.
        group: Number of the group, from 0.
        groups: How many groups there are.
    """
    if not 0 <= group < groups:
        raise ValueError(f"there is no group {group} among {groups}")
    row = [0.0] * (4 * groups)
    row[4 * group : 4 * group + 4] = outcome(said_yes, is_yes)
    return tuple(row)


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


def mean_f1(sums: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the mean of the F1 of the groups that have answers."""
    import numpy as np

    groups = [sums[:, start : start + 4] for start in range(0, sums.shape[1], 4)]
    there = np.sum([group.sum(axis=1) > 0 for group in groups], axis=0, dtype=np.float64)
    summed: NDArray[np.float64] = np.sum([f1(group) for group in groups], axis=0)
    return ratio(summed, np.asarray(there))


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
MACRO_F1 = Metric(
    name="macro_f1",
    label="F1, mean of splits",
    per_sample=outcome_of_group,
    combine=mean_f1,
    unit="per cent, mean of splits",
    full_scale=100.0,
    form="counts",
)
YES_RATIO = Metric(
    name="yes_ratio",
    label="Yes ratio",
    per_sample=said_yes,
    unit="per cent of answers that are yes",
    full_scale=100.0,
    direction="neither",
    form="mean",
)
