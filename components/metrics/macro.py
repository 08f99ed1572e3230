"""Means over subjects that count each subject alike, however many questions it has."""

from typing import TYPE_CHECKING

from components.metrics.metric import Metric, Row, ratio

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def of_subject(mark: float, subject: int, subjects: int) -> Row:
    """Return mark and 1 in the two columns of the sample's subject, 0 in those of every other one.

    Args:
        mark: How right the answer is, 0..1.
        subject: Number of the subject, from 0.
        subjects: How many subjects there are.
    """
    if not 0 <= subject < subjects:
        raise ValueError(f"there is no subject {subject} among {subjects}")
    row = [0.0] * (2 * subjects)
    row[2 * subject : 2 * subject + 2] = mark, 1.0
    return tuple(row)


def mean_of_means(sums: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the mean over the subjects that have samples of the mean mark of each."""
    marks, counts = sums[:, 0::2], sums[:, 1::2]
    return ratio(marks, counts).sum(axis=1) / (counts > 0).sum(axis=1)


MACRO_ACCURACY = Metric(
    name="macro_accuracy",
    label="Mean accuracy of subjects",
    per_sample=of_subject,
    combine=mean_of_means,
    unit="per cent right, mean of subjects",
    full_scale=100.0,
    form="counts",
)
