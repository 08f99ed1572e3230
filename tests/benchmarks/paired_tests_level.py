"""How often paired tests see a difference where there is none.

    python -m tests.benchmarks.paired_tests_level [--trials 2000] [--resamples 399]

Pairs of models with the same true value answer random samples; the table gives the share of trials with p <= 0.05, and how often the
95 % interval holds the true difference, 0: for `components/metrics/paired.py` and for the paired percentile bootstrap that it replaced. Of 2,000
trials a share of 5 % has a standard error of 0.5 %.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.metrics.captions import ORDERS, bleu
from components.metrics.intervals import Resamples, percentile_interval
from components.metrics.metric import Form, mean
from components.metrics.paired import paired_test
from components.metrics.yes_no import f1

Floats = NDArray[np.float64]
Pair = tuple[Floats, Floats]

SIZES = (10, 20, 50, 200)
LEVEL = 0.05


@dataclass(frozen=True)
class Null:
    """Two models that are equally good.

    Attributes:
        draw: The statistics of both for a number of samples.
        combine: The metric.
        form: Which test is used.
    """

    draw: Callable[[np.random.Generator, int], Pair]
    combine: Callable[[Floats], Floats]
    form: Form


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, help="pairs of models for each cell")
    parser.add_argument(
        "--resamples", type=int, default=399, help="random exchanges, and bootstrap resamples, for each pair"
    )
    options = parser.parse_args()
    start = time.monotonic()
    print(
        "| models that are equally good | n | bootstrap rejects | test rejects | bootstrap's interval holds 0 | test's interval |"
    )
    print("|---|---|---|---|---|---|")
    for name, null in NULLS.items():
        for size in SIZES:
            shares = measure(null, size, options.trials, options.resamples)
            print(f"| {name} | {size} | {' | '.join(f'{100 * share:.1f} %' for share in shares)} |", flush=True)
    print(f"\n{time.monotonic() - start:.0f} s")


def measure(null: Null, size: int, trials: int, resamples: int) -> tuple[float, float, float, float]:
    """Return the shares of rejections (bootstrap, test) and of intervals that hold 0 (bootstrap, test)."""
    generator = np.random.default_rng(size)
    found = np.zeros((trials, 4))
    for trial in range(trials):
        first, second = null.draw(generator, size)
        p_value, low, high = bootstrap(first, second, null.combine, resamples, trial)
        outcome = paired_test(first, second, null.combine, null.form, seed=trial, resamples=resamples)
        found[trial] = p_value <= LEVEL, outcome.p_value <= LEVEL, low <= 0 <= high, outcome.low <= 0 <= outcome.high
    bootstrapped, tested, bootstrap_holds, test_holds = found.mean(axis=0)
    return float(bootstrapped), float(tested), float(bootstrap_holds), float(test_holds)


def bootstrap(
    first: Floats, second: Floats, combine: Callable[[Floats], Floats], resamples: int, seed: int
) -> tuple[float, float, float]:
    """Return two-sided p-value and percentile interval of the paired bootstrap."""
    size = len(first)
    counts = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), resamples)
    drawn = Resamples(counts.astype(np.uint16))
    differences = combine(drawn.sums(second)) - combine(drawn.sums(first))
    total = resamples + 1
    shares = ((differences <= 0).sum() + 1) / total, ((differences >= 0).sum() + 1) / total
    return float(min(1.0, 2 * min(shares))), *percentile_interval(differences)


def normal(generator: np.random.Generator, size: int) -> Pair:
    """Draw values around the sample's own."""
    own = generator.normal(0, 1, size)
    return _rows(own + generator.normal(0, 1, size)), _rows(own + generator.normal(0, 1, size))


def skewed(generator: np.random.Generator, size: int) -> Pair:
    """Draw lognormal values, as CIDEr's are skewed."""
    own = generator.lognormal(0, 0.5, size)
    return _rows(own * generator.lognormal(0, 1, size)), _rows(own * generator.lognormal(0, 1, size))


def skewed_against_even(generator: np.random.Generator, size: int) -> Pair:
    """Draw lognormal values of one model and normal ones of the other, of equal means: the differences are skewed."""
    return _rows(generator.lognormal(-0.125, 0.5, size)), _rows(generator.normal(1, 0.3, size))


def right_or_wrong(generator: np.random.Generator, size: int) -> Pair:
    """Draw answers, 70 % right; half the samples are answered alike."""
    alike, answers = generator.random(size) < 0.5, generator.random((2, size)) < 0.7
    return _rows(answers[0]), _rows(np.where(alike, answers[0], answers[1]))


def yes_or_no(recalls: tuple[float, float], alarms: tuple[float, float]) -> Callable[[np.random.Generator, int], Pair]:
    """Return a drawing of outcomes of yes-or-no questions, half of them true, for recalls and false alarms of both models."""

    def draw(generator: np.random.Generator, size: int) -> Pair:
        truth = generator.random(size) < 0.5
        luck = generator.random((2, size))
        luck[1] = np.where(generator.random(size) < 0.3, luck[0], luck[1])
        said = [luck[side] < np.where(truth, recalls[side], alarms[side]) for side in (0, 1)]
        first, second = (np.stack([truth & yes, ~truth & yes, truth & ~yes], axis=1).astype(np.float64) for yes in said)
        return first, second

    return draw


def captions(generator: np.random.Generator, size: int) -> Pair:
    """Draw BLEU's counts of captions of some ten words, some 60 % of them right, by two models alike."""
    ease = generator.normal(0.4, 0.8, size)
    chance = 1 / (1 + np.exp(-ease))
    reference = generator.integers(8, 15, size)
    sides = []
    for _ in range(2):
        words = np.maximum(ORDERS, generator.poisson(10, size))
        guesses = np.stack([words - order for order in range(ORDERS)], axis=1)
        hits = [generator.binomial(words, chance)]
        for order in range(1, ORDERS):  # an n-gram can be right where the shorter one is
            hits.append(generator.binomial(np.minimum(hits[-1], guesses[:, order]), chance))
        sides.append(np.column_stack([*hits, guesses, words, reference]).astype(np.float64))
    return sides[0], sides[1]


def _rows(values: NDArray[np.generic]) -> Floats:
    return np.stack([values.astype(np.float64), np.ones(len(values))], axis=1)


NULLS = {
    "means, normal": Null(normal, mean, "mean"),
    "means, skewed": Null(skewed, mean, "mean"),
    "means, one skewed and one not": Null(skewed_against_even, mean, "mean"),
    "right or wrong": Null(right_or_wrong, mean, "share"),
    "F1, alike": Null(yes_or_no((0.8, 0.8), (0.3, 0.3)), f1, "counts"),
    # 2 x 0.8 / (1 + 0.8 + 0.2) = 2 x 0.96 / (1 + 0.96 + 0.44) = 0.8
    "F1, one more often says yes": Null(yes_or_no((0.8, 0.96), (0.2, 0.44)), f1, "counts"),
    "BLEU-4, alike": Null(captions, bleu(4), "counts"),
}


if __name__ == "__main__":
    main()
