"""Whether two models differ on the same samples: tests that hold their level at any number of samples.

All tests rest on one thought: were the two models alike, then for every sample either could have given either answer.
What exchanging the answers of some samples makes of the difference is therefore its distribution under the null
hypothesis, exact whatever the values look like. Up to `_ENUMERATED` samples all exchanges are tried, else 10,000 random ones.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.metrics.intervals import Floats
from components.metrics.metric import Form

MCNEMAR = "exact McNemar test"
SIGN_FLIP = "sign-flip permutation test"
SWAP = "studentised swap permutation test"
RESAMPLES = 10_000

Combine = Callable[[Floats], Floats]

_LEVEL = 0.05
_ENUMERATED = 13
"""Samples whose 2^n exchanges are fewer than `RESAMPLES`."""
_BLOCK = 4_000_000
"""Numbers that are held for a portion of the exchanges."""
_TIE = 1e-7
"""Values this close, relatively, count as equal: their sums were rounded on different ways."""
_STEP = 1e-7
_SMALLEST_ERROR = 1e-6
"""Least standard error, relative to the values over the root of the number of samples: less is rounding."""


@dataclass(frozen=True)
class PairedOutcome:
    """Second model minus first.

    Attributes:
        value: The difference, in the metric's own scale.
        low: Lower end of the difference's 95 % interval.
        high: Upper end.
        p_value: Two-sided: how often chance alone makes a difference this large.
        method: Name of the test.
    """

    value: float
    low: float
    high: float
    p_value: float
    method: str


def paired_test(
    first: Floats, second: Floats, combine: Combine, form: Form, *, seed: int = 0, resamples: int = RESAMPLES
) -> PairedOutcome:
    """Test whether two models differ in a metric of the same samples.

    The forms and their tests:

    - "share": (1 where right else 0, 1) of every sample. McNemar's exact test: given how many samples one model alone has
      right, a fair coin says which. Interval: the score interval of the difference of paired proportions with the
      continuity correction of McNemar's test. It excludes 0 where p < 0.05, but for rare cases at the border.
    - "mean": (value, 1) of every sample. Sign-flip permutation test of the differences. Interval: all shifts that the same
      test doesn't reject; for differences that are symmetric about the true one it is exact.
    - "counts": any sums. Permutation test that exchanges the models' statistics sample by sample. The difference is
      divided by its standard error (delta method, anew for every exchange), so that models that reach the same value
      in different ways are not told apart either, once samples are many. Interval: difference ± critical value of the test x standard error.

    Of a mean or counts the interval excludes 0 exactly where p < 0.05. Where the samples are too few for any result
    to be significant (5 or fewer that differ) there is no 95 % interval; what is given then holds 0, and of a mean all differences.

    Sources: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", 1947;
    T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design", 1998;
    J. Hartigan, "Using subsample values as typical values", 1969 (shifts that sign flips don't reject);
    E. Chung and J. Romano, "Exact and asymptotically robust permutation tests", 2013 (studentising);
    B. Phipson and G. Smyth, "Permutation p-values should never be zero", 2010.

    Args:
        first: What every sample adds under the model that is compared with, float64 [samples, k].
        second: The same of the other model, the samples in the same order.
        combine: The metric of sums, [r, k] to [r].
        form: What the samples add; see above.
        seed: Of the random exchanges.
        resamples: How many of them.

    Raises:
        ValueError: The arrays don't match, or are not of the form.
    """
    if first.shape != second.shape or first.ndim != 2 or not len(first):
        raise ValueError(
            f"paired statistics must be two arrays [samples, k] alike, not {first.shape} and {second.shape}"
        )
    if form != "counts" and not all(part.shape[1] == 2 and (part[:, 1] == 1).all() for part in (first, second)):
        raise ValueError(f"samples of a {form} add (value, 1) each")
    sums = np.stack([first.sum(axis=0), second.sum(axis=0)])
    one, other = combine(sums)
    value = float(other - one)
    if form == "share":
        low, high, p_value = _mcnemar(first[:, 0], second[:, 0])
        return PairedOutcome(value, low, high, p_value, MCNEMAR)
    if form == "mean":
        low, high, p_value = _sign_flip(second[:, 0] - first[:, 0], seed, resamples)
        return PairedOutcome(value, low, high, p_value, SIGN_FLIP)
    low, high, p_value = _swap(first, second, combine, seed, resamples)
    return PairedOutcome(value, low, high, p_value, SWAP)


def _mcnemar(first: Floats, second: Floats) -> tuple[float, float, float]:
    from scipy.stats import binomtest

    if not np.isin([first, second], (0.0, 1.0)).all():
        raise ValueError("samples of a share are right (1) or wrong (0)")
    gained, lost = int((second > first).sum()), int((second < first).sum())
    p_value = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return (
        _lowest_share_difference(gained, lost, len(first)),
        -_lowest_share_difference(lost, gained, len(first)),
        p_value,
    )


def _lowest_share_difference(gained: int, lost: int, total: int) -> float:
    """Return the lower end of the score interval of (gained - lost) / total, with continuity correction."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    z = float(ndtri(1 - _LEVEL / 2))

    def excess(difference: float) -> float:
        # The most likely share of samples lost, given the difference.
        slope = difference * (2 * total - gained + lost) - gained - lost
        constant = -lost * difference * (1 - difference)
        share = (math.sqrt(max(slope**2 - 8 * total * constant, 0.0)) - slope) / (4 * total)
        variance = total * (2 * share + difference * (1 - difference))
        return gained - lost - 1 - total * difference - z * math.sqrt(max(variance, 0.0))

    top = (gained - lost - 1) / total
    return float(brentq(excess, -1.0, top)) if top > -1 else -1.0


def _sign_flip(differences: Floats, seed: int, resamples: int) -> tuple[float, float, float]:
    """Return interval and p-value of a mean.

    Flipping the signs of a set of differences leaves the sum at least as large exactly where the sum of the set is not
    positive. After a shift of all differences that is where the mean of the set is not above the shift: the order of the
    sets' means gives p-value and interval alike.
    """
    sums, sizes = [np.zeros(1)], [np.zeros(1)]  # nothing flipped: what was observed
    for flips in _exchanges(len(differences), seed, resamples, len(differences)):
        sums.append(flips @ differences)
        sizes.append(flips.sum(axis=1))
    total, size = np.concatenate(sums), np.concatenate(sizes)
    rounding = _TIE * np.abs(differences).sum()
    tail = min((total <= rounding).sum(), (total >= -rounding).sum())
    p_value = min(1.0, 2 * float(tail) / len(total))
    place = math.floor(_LEVEL / 2 * len(total))
    empty = size == 0
    means = np.divide(total, size, out=np.zeros_like(total), where=~empty)
    low = float(np.partition(np.where(empty, -np.inf, means), place)[place])
    high = float(np.partition(np.where(empty, np.inf, means), len(total) - 1 - place)[len(total) - 1 - place])
    if not math.isfinite(low + high):
        low, high = min(0.0, float(differences.min())), max(0.0, float(differences.max()))
    return low, high, p_value


def _swap(first: Floats, second: Floats, combine: Combine, seed: int, resamples: int) -> tuple[float, float, float]:
    differing = (first != second).any(axis=1)
    exchange = _Exchange(first[differing], second[differing], first[~differing], combine)
    count, columns = int(differing.sum()), first.shape[1]
    observed, error = exchange.apply(np.zeros((1, count)))
    parts = [np.abs(observed) / error]
    for swaps in _exchanges(count, seed, resamples, 4 * count + columns**2):
        values, errors = exchange.apply(swaps)
        parts.append(np.abs(values) / errors)
    ratios = np.concatenate(parts)
    as_large = ratios >= ratios[0] * (1 - _TIE)
    place = math.floor(_LEVEL * len(ratios))
    critical = float(np.partition(ratios, len(ratios) - 1 - place)[len(ratios) - 1 - place])
    value, half = float(observed[0]), critical * float(error[0])
    if as_large.sum() > place:  # not significant: rounding must not say otherwise
        half = max(half, abs(value))
    return value - half, value + half, float(as_large.mean())


class _Exchange:
    """Difference of a metric, and its standard error, after exchanging the models' statistics of some samples.

    Args:
        first: Statistics of the samples that differ, float64 [differing, k].
        second: The same of the other model.
        same: Statistics of the samples that don't, float64 [others, k].
        combine: The metric.
    """

    def __init__(self, first: Floats, second: Floats, same: Floats, combine: Combine) -> None:
        self._first, self._second, self._combine = first, second, combine
        self._same_sum, self._same_products = same.sum(axis=0), same.T @ same
        self._count = len(first) + len(same)
        size = np.abs(first).sum(axis=0) + np.abs(second).sum(axis=0) + 2 * np.abs(same).sum(axis=0)
        self._steps = np.where(size > 0, _STEP * size, 1.0)

    def apply(self, swaps: Floats) -> tuple[Floats, Floats]:
        """Return difference and standard error, both [r], for the swapped samples, 0 or 1, float64 [r, differing]."""
        moved = swaps @ (self._second - self._first)
        one = self._first.sum(axis=0) + self._same_sum + moved
        other = self._second.sum(axis=0) + self._same_sum - moved
        value_one, slope_one = self._slopes(one)
        value_other, slope_other = self._slopes(other)
        # What every sample contributes to the difference, to first order, [r, differing]
        kept = slope_other @ self._second.T - slope_one @ self._first.T
        swapped = slope_other @ self._first.T - slope_one @ self._second.T
        effects = np.where(swaps > 0, swapped, kept)
        slope = slope_other - slope_one
        squares = (effects**2).sum(axis=1) + np.einsum("rk,kl,rl->r", slope, self._same_products, slope)
        variance = squares - (effects.sum(axis=1) + slope @ self._same_sum) ** 2 / self._count
        least = _SMALLEST_ERROR * (np.abs(value_one) + np.abs(value_other)) / math.sqrt(self._count)
        # Two values of 0 differ by 0, whatever it is divided by.
        error = np.sqrt(np.maximum(variance, np.where(least > 0, least, 1.0) ** 2))
        return value_other - value_one, error

    def _slopes(self, sums: Floats) -> tuple[Floats, Floats]:
        """Return the metric and its derivatives by the sums, [r] and [r, k]; one-sided: counts don't get negative."""
        value = self._combine(sums)
        slopes = np.empty_like(sums)
        for column, step in enumerate(self._steps):
            shifted = sums.copy()
            shifted[:, column] += step
            slopes[:, column] = (self._combine(shifted) - value) / step
        return value, slopes


def _exchanges(count: int, seed: int, resamples: int, width: int) -> Iterator[Floats]:
    """Yield portions of exchanges, 0 or 1, float64 [r, count]: all but the one that exchanges nothing, or random ones.

    Args:
        count: Samples that can be exchanged.
        seed: Of the random exchanges.
        resamples: Number of random exchanges.
        width: Numbers that one exchange takes elsewhere.
    """
    rows = max(1, _BLOCK // max(1, width))
    if count <= _ENUMERATED:
        for start in range(1, 2**count, rows):
            numbers: NDArray[np.int64] = np.arange(start, min(start + rows, 2**count))
            yield (numbers[:, None] >> np.arange(count) & 1).astype(np.float64)
        return
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, rows):
        drawn = generator.integers(0, 256, (min(rows, resamples - start), -(-count // 8)), dtype=np.uint8)
        yield np.unpackbits(drawn, axis=1, count=count).astype(np.float64)
