"""Learning-rate schedule against transformers' own and its end points."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from components.training.schedule import learning_rate


def test_equals_transformers_cosine_schedule_when_it_ends_at_zero() -> None:
    iterations, warmup, peak = 200, 10, 1.5e-4
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    reference = get_cosine_schedule_with_warmup(optimizer, warmup, iterations)
    for step in range(1, iterations + 1):
        optimizer.step()
        reference.step()
        ours = learning_rate(step, iterations=iterations, peak=peak, minimum=0.0, warmup_fraction=warmup / iterations)
        assert ours == pytest.approx(reference.get_last_lr()[0], abs=1e-12)


def test_reference_recipe_reaches_peak_after_one_percent_and_ends_at_minimum() -> None:
    recipe = {"iterations": 20_000, "peak": 1.5e-4, "minimum": 1e-5, "warmup_fraction": 0.01}
    assert learning_rate(200, **recipe) == pytest.approx(1.5e-4)
    assert learning_rate(100, **recipe) == pytest.approx(0.75e-4)
    assert learning_rate(20_000, **recipe) == pytest.approx(1e-5)


@given(st.integers(1, 500), st.floats(0, 0.99), st.floats(1e-6, 1.0), st.floats(0, 1))
def test_rises_then_falls_between_minimum_and_peak(
    iterations: int, warmup: float, peak: float, minimum_share: float
) -> None:
    minimum = peak * minimum_share
    rates = [
        learning_rate(step, iterations=iterations, peak=peak, minimum=minimum, warmup_fraction=warmup)
        for step in range(1, iterations + 1)
    ]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) <= peak * (1 + 1e-9)
    assert min(rates[top:]) >= minimum * (1 - 1e-9)
