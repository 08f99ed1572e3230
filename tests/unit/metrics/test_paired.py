"""Paired tests against scipy, exact enumeration, and the very meaning of a level."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats

from components.metrics.captions import bleu
from components.metrics.metric import Form, mean
from components.metrics.paired import MCNEMAR, SIGN_FLIP, SWAP, paired_test
from components.metrics.yes_no import f1, outcome

Floats = NDArray[np.float64]


def rows(values: Sequence[float] | Floats) -> Floats:
    return np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=1)


def outcomes(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> Floats:
    return np.array([outcome(yes, true) for yes, true in zip(said.tolist(), truth.tolist(), strict=True)])


pairs_of_answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)


@given(pairs_of_answers)
def test_right_and_wrong_is_mcnemars_exact_test(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (rows([pair[side] for pair in pairs]) for side in (0, 1))
    gained, lost = sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs)
    tail = sum(math.comb(gained + lost, k) for k in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    found = paired_test(first, second, mean, "share")
    assert found.method == MCNEMAR
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    assert found.value == pytest.approx((gained - lost) / len(pairs))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 60))
def test_the_interval_of_shares_is_where_the_score_test_ends(gained: int, lost: int, others: int) -> None:
    """The most likely shares under a given difference are found by search, not by the formula."""
    total = gained + lost + others
    first = rows([0] * gained + [1] * lost + [1] * others)
    second = rows([1] * gained + [0] * lost + [1] * others)
    found = paired_test(first, second, mean, "share")
    assert -1 <= found.low <= found.value <= found.high <= 1

    def score(difference: float) -> float:
        def unlikelihood(share: float) -> float:
            chances = (share + difference, share, 1 - 2 * share - difference)
            return -sum(n * math.log(p) for n, p in zip((gained, lost, others), chances, strict=True) if n)

        least, most = max(0.0, -difference), (1 - difference) / 2
        margin = 1e-12 * (most - least)
        share = optimize.minimize_scalar(
            unlikelihood, bounds=(least + margin, most - margin), method="bounded", options={"xatol": 1e-12}
        ).x
        variance = total * (2 * share + difference - difference**2)
        return float((abs(gained - lost - total * difference) - 1) / math.sqrt(variance))

    for end in (found.low, found.high):
        if abs(end) < 1:
            assert score(end) == pytest.approx(stats.norm.ppf(0.975), rel=1e-3)


def test_the_interval_of_shares_excludes_0_where_the_test_rejects_but_at_the_border() -> None:
    total, contradictions = 60, []
    for gained, lost in product(range(41), range(20)):
        first = rows([0] * gained + [1] * lost + [1] * (total - gained - lost))
        second = rows([1] * gained + [0] * lost + [1] * (total - gained - lost))
        found = paired_test(first, second, mean, "share")
        if (found.low > 0 or found.high < 0) != (found.p_value < 0.05):
            contradictions.append(found.p_value)
    assert len(contradictions) <= 3
    assert all(0.048 < p_value < 0.05 for p_value in contradictions)


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=9))
@settings(max_examples=40)
def test_few_differences_have_scipys_exact_p_value(differences: list[int]) -> None:
    first, second = rows([0] * len(differences)), rows(differences)
    expected = stats.permutation_test(
        (np.array(differences, dtype=float),),
        lambda values, axis: values.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    found = paired_test(first, second, mean, "mean")
    assert found.method == SIGN_FLIP
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.value == pytest.approx(np.mean(differences))


def test_many_differences_have_scipys_p_value_up_to_chance_and_the_t_tests() -> None:
    generator = np.random.default_rng(3)
    for shift in (0.0, 0.1, 0.25):
        first = generator.normal(3.0, 2.0, 300)
        second = first + shift + generator.normal(0.0, 2.0, 300)
        found = paired_test(rows(first), rows(second), mean, "mean")
        reference = stats.ttest_rel(second, first)
        interval = reference.confidence_interval(0.95)
        assert found.p_value == pytest.approx(reference.pvalue, abs=0.02)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.02)


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=9), st.floats(-3, 3))
@settings(max_examples=40)
def test_the_interval_of_a_mean_holds_the_shifts_that_are_not_rejected(differences: list[float], shift: float) -> None:
    values = np.array(differences)
    found = paired_test(rows(np.zeros(len(values))), rows(values), mean, "mean")
    shifted = paired_test(rows(np.full(len(values), shift)), rows(values), mean, "mean")
    if min(abs(shift - found.low), abs(shift - found.high)) > 1e-4:
        assert (shifted.p_value >= 0.05) == (found.low < shift < found.high)


def test_counts_have_scipys_exact_p_value_of_the_studentised_difference() -> None:
    generator = np.random.default_rng(5)
    for _ in range(10):
        truth = generator.random(8) < 0.5
        first, second = (outcomes(truth, generator.random(8) < share) for share in (0.5, 0.7))
        both = np.concatenate([first, second])

        def ratio(places: Floats, others: Floats, axis: int, both: Floats = both) -> Floats:
            """F1's difference over its standard error, its derivatives written by hand."""
            parts = [both[np.moveaxis(item, axis, -1).astype(int)] for item in (places, others)]
            values, effects = [], []
            for part in parts:
                hits, wrong, missed, _ = np.moveaxis(part.sum(axis=-2), -1, 0)[..., None]
                below = 2 * hits + wrong + missed
                safe = np.where(below > 0, below, 1)
                values.append(np.where(below > 0, 2 * hits / safe, 0)[..., 0])
                slope = np.stack([2 * (wrong + missed), -2 * hits, -2 * hits, 0 * hits], axis=-1) / safe[..., None] ** 2
                effects.append((part * slope).sum(axis=-1))
            error = np.sqrt(np.sum((effects[1] - effects[0]) ** 2, axis=-1))
            return np.divide(values[1] - values[0], error, out=np.zeros_like(error), where=error > 1e-9)

        expected = stats.permutation_test(
            (np.arange(8.0), np.arange(8.0, 16.0)),
            ratio,
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        )
        found = paired_test(first, second, f1, "counts")
        assert found.method == SWAP
        assert found.p_value == pytest.approx(expected.pvalue, abs=1e-12)


def test_counts_of_means_agree_with_the_test_of_means() -> None:
    generator = np.random.default_rng(7)
    for size in (8, 100):
        first, second = rows(generator.normal(0, 1, size)), rows(generator.normal(0.3, 1, size))
        one, other = (paired_test(first, second, mean, form) for form in ("mean", "counts"))
        assert other.value == pytest.approx(one.value)
        assert other.p_value == pytest.approx(one.p_value, abs=0.01)
        assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.05 if size > 8 else 0.3)


any_sums = st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=7)


@given(any_sums)
@settings(max_examples=25)
def test_over_all_exchanges_no_level_is_exceeded(samples: list[list[int]]) -> None:
    """What holding a level means: of all data that are as likely under the null hypothesis, a share of at most p has a p-value up to p."""
    both = np.array(samples, dtype=np.float64).reshape(len(samples), 2, 3)
    for form, combine in (("counts", f1), ("mean", mean)):
        p_values = []
        for swaps in product((0, 1), repeat=len(samples)):
            first, second = (both[np.arange(len(both)), [abs(swap - side) for swap in swaps]] for side in (0, 1))
            if form == "mean":
                first, second = rows(first[:, 0]), rows(second[:, 0])
            p_values.append(paired_test(first, second, combine, form).p_value)
        for p_value in set(p_values):
            assert np.mean([other <= p_value + 1e-12 for other in p_values]) <= p_value + 1e-9


@given(any_sums, st.integers(1, 30))
@settings(max_examples=25)
def test_intervals_of_counts_hold_the_difference_and_agree_with_the_test(samples: list[list[int]], copies: int) -> None:
    both = np.array(samples * copies, dtype=np.float64).reshape(-1, 2, 3)
    found = paired_test(both[:, 0], both[:, 1], f1, "counts", resamples=500)
    assert found.low <= found.value <= found.high
    assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)


def test_a_model_that_has_become_useless_is_told_apart() -> None:
    """BLEU's derivatives are endless where no n-gram of four is right."""
    generator = np.random.default_rng(0)
    good = np.concatenate([generator.integers(0, 4, (40, 4)), np.full((40, 4), 6), np.full((40, 2), 9)], axis=1)
    bad = good.copy()
    bad[:, :4] = 0
    found = paired_test(good.astype(np.float64), bad.astype(np.float64), bleu(4), "counts")
    assert found.p_value < 0.001
    assert found.low < found.value < found.high < 0


@pytest.mark.parametrize("form", ["share", "mean", "counts"])
@pytest.mark.parametrize("size", [1, 5, 50])
def test_equal_models_differ_by_nothing(form: Form, size: int) -> None:
    same = rows([number % 2 for number in range(size)])
    found = paired_test(same, same, mean, form)
    assert (found.value, found.p_value) == (0, 1)
    if form == "share":  # as many samples may hide a difference of a few in so many
        assert found.low == pytest.approx(-found.high)
        assert 0 < found.high < 6 / size + 1e-9 or size < 6
    else:
        assert (found.low, found.high) == (0, 0)


@pytest.mark.parametrize("form", ["share", "mean", "counts"])
def test_five_samples_can_show_nothing(form: Form) -> None:
    found = paired_test(rows([0] * 5), rows([1] * 5), mean, form)
    assert found.p_value >= 2 / 2**5 - 1e-12
    assert found.low <= 0 <= found.high


def test_exchanges_are_seeded() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.random((50, 3)), generator.random((50, 3))
    one, again, other = (paired_test(first, second, f1, "counts", seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one.p_value != other.p_value


def test_statistics_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not \(2, 2\) and \(3, 2\)"):
        paired_test(rows([1, 0]), rows([1, 0, 0]), mean, "mean")
    with pytest.raises(ValueError, match="samples of a mean add"):
        paired_test(np.ones((3, 3)), np.ones((3, 3)), f1, "mean")
    with pytest.raises(ValueError, match="right .1. or wrong .0."):
        paired_test(rows([0.5]), rows([1]), mean, "share")
