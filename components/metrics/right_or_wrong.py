"""Metrics of answers that are right or wrong."""

from components.metrics.metric import Metric, Row

TOLERANCE = 0.05


def right(correct: bool) -> Row:
    """Return what an answer adds to a share of right ones."""
    return float(correct), 1.0


def relaxed(answer: str, truth: str) -> Row:
    """Return 1 for a number within 5 % of the true one, or for the true text whatever its case; else 0.

    A percentage is a hundredth. A true value of zero is compared as text, since nothing is within 5 % of it.

    Source: A. Masry et al., "ChartQA", 2022, after N. Methani et al., "PlotQA", 2020.
    """
    said, wanted = _number(answer), _number(truth)
    if said is not None and wanted:
        return right(abs(said - wanted) / abs(wanted) <= TOLERANCE)
    return right(answer.strip().lower() == truth.strip().lower())


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


ACCURACY = Metric(
    name="accuracy", label="Accuracy", per_sample=right, unit="per cent right", full_scale=100.0, form="share"
)

GROUP_ACCURACY = Metric(
    name="group_accuracy",
    label="Accuracy per group",
    per_sample=right,
    unit="per cent of groups with every answer right",
    full_scale=100.0,
    form="share",
    pooling="all",
)
"""A group of questions (the two about one picture, a question and its opposite) counts as one, right where all are."""

RELAXED_ACCURACY = Metric(
    name="relaxed_accuracy",
    label="Relaxed accuracy",
    per_sample=relaxed,
    unit="per cent right, numbers within 5 %",
    full_scale=100.0,
    form="share",
)
