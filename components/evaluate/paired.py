"""Whether two models differ on the same samples: paired tests of every metric."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from components.evaluate.sample_scores import SampleScores
from components.evaluate.scores import PairedTest, Scores
from components.metrics.intervals import Floats, Resamples, percentile_interval
from components.tasks.kind import POINTS

RESAMPLES = 10_000
MCNEMAR = "exact McNemar test"
BOOTSTRAP = "paired bootstrap"

# Resamples are drawn in portions: all of them for hundred thousands of samples would not fit in memory.
_COUNTS_AT_ONCE = 4_000_000


def paired_tests(
    first: SampleScores, second: SampleScores, metrics: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, PairedTest]:
    """Compare two models on the same samples.

    Where every value is right or wrong, the p-value is McNemar's exact one: binomial over the samples that one model
    alone has right. For any other metric it is twice the smaller share of bootstrap resamples in which the difference
    is not positive or not negative. Intervals are the paired bootstrap's in both cases.

    Sources: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    1947; B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993.

    Args:
        first: The samples' scores of the one that is compared with.
        second: Scores of the same samples, in the same order.
        metrics: What is compared.
        resamples: How often the samples are drawn.
        seed: Of the drawing.

    Returns:
        Metric to second minus first, in points, two-sided.

    Raises:
        ValueError: The samples are not the same.
    """
    if first.ids != second.ids:
        raise ValueError("paired tests need the same samples in the same order")
    statistics = {metric: (first.statistic(metric), second.statistic(metric)) for metric in metrics}
    draws: dict[str, list[Floats]] = {metric: [] for metric in metrics}
    for metric, (one, other) in statistics.items():
        for portion in _portions(len(one.units), resamples, seed):
            draws[metric].append(other.resampled(portion) - one.resampled(portion))
    tests = {}
    for metric, (one, other) in statistics.items():
        differences = np.concatenate(draws[metric])
        low, high = percentile_interval(differences)
        p_value, method = _bootstrap_p(differences), BOOTSTRAP
        if one.is_share:
            p_value, method = _mcnemar_p(one.units[:, 0], other.units[:, 0]), MCNEMAR
        tests[metric] = PairedTest(
            value=round(POINTS * (other.value() - one.value()), 4),
            low=round(POINTS * low, 4),
            high=round(POINTS * high, 4),
            p_value=p_value,
            method=method,
        )
    return tests


def why_not_comparable(first: Scores, second: Scores, samples: tuple[SampleScores, SampleScores] | None = None) -> str:
    """Return why two evaluations can't be compared, both values named; empty where they can.

    Args:
        first: Scores of one model.
        second: Scores of the other one.
        samples: The samples of both, where they are known.
    """
    facts = (
        ("task", first.task, second.task),
        ("task version", first.prompt_version, second.prompt_version),
        ("prompt", repr(first.prompt), repr(second.prompt)),
        ("task's settings", first.task_identity, second.task_identity),
        ("ground truth (SHA-256)", first.dataset[:16], second.dataset[:16]),
        ("way to cut captions into words", first.tokenizer, second.tokenizer),
        ("number of samples", str(first.n_scored), str(second.n_scored)),
    )
    for name, one, other in facts:
        if one != other:
            return f"the {name} differs: {one} and {other}"
    if samples and samples[0].ids != samples[1].ids:
        alone = [sorted(set(one.ids) - set(other.ids)) for one, other in (samples, samples[::-1])]
        named = " and ".join(ids[0] if ids else "none" for ids in alone)
        return f"the samples differ: {len(alone[0])} and {len(alone[1])} are in one evaluation alone, as {named}"
    return ""


def _portions(size: int, resamples: int, seed: int) -> Iterator[Resamples]:
    rows = max(1, _COUNTS_AT_ONCE // max(size, 1))
    for number, start in enumerate(range(0, resamples, rows)):
        yield Resamples.draw(size, min(rows, resamples - start), seed=seed + number)


def _mcnemar_p(first: Floats, second: Floats) -> float:
    from scipy.stats import binomtest

    gained, lost = int((second > first).sum()), int((second < first).sum())
    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def _bootstrap_p(differences: NDArray[np.float64]) -> float:
    total = len(differences) + 1
    shares = ((differences <= 0).sum() + 1) / total, ((differences >= 0).sum() + 1) / total
    return float(min(1.0, 2 * min(shares)))
