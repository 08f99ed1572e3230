import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.metrics.captions import CIDER
from components.metrics.intervals import Resamples, percentile_interval, wilson_interval
from components.metrics.metric import Metric
from components.metrics.statistic import Statistic


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (342, 900, 0.3489, 0.4122)],
)
def test_wilson_intervals_equal_published_values(right: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_intervals_hold_the_share_and_stay_within_0_and_1(counts: tuple[int, int]) -> None:
    low, high = wilson_interval(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1


def test_the_bootstrap_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    statistic = Statistic.of(CIDER, [CIDER.per_sample(value) for value in values])
    low, high = percentile_interval(statistic.resampled(Resamples.draw(400, 2000, seed=1)))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(400), rel=0.08)
    assert low < values.mean() < high


def test_resamples_are_seeded_and_keep_the_size() -> None:
    first, second = Resamples.draw(50, 20, seed=1), Resamples.draw(50, 20, seed=1)
    assert (first.counts == second.counts).all()
    assert (first.counts.sum(axis=1) == 50).all()
    assert (first.counts != Resamples.draw(50, 20, seed=2).counts).any()


def test_a_statistic_of_all_samples_is_its_value() -> None:
    weighted = Metric(
        name="w", label="W", per_sample=lambda value, weight: (value, weight), unit="points", form="counts"
    )
    statistic = Statistic.of(weighted, [(1.0, 2.0), (3.0, 4.0)])
    assert statistic.value() == pytest.approx(4 / 6)
