"""How tokens are drawn, against transformers' own processing of the same logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from components.model.sampling import draw, probabilities
from components.model.sampling_settings import GREEDY, Sampling

NONE = torch.empty(1, 0, dtype=torch.int64)


@given(
    seed=st.integers(0, 2**32),
    vocabulary=st.integers(2, 60),
    spread=st.sampled_from([0.1, 1.0, 10.0]),
    temperature=st.floats(0.05, 5.0),
    top_k=st.integers(0, 70),
    top_p=st.floats(0.05, 1.0),
)
def test_probabilities_equal_transformers_warpers(
    seed: int, vocabulary: int, spread: float, temperature: float, top_k: int, top_p: float
) -> None:
    logits = spread * torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits[:, -1] = -torch.inf  # a padded row of the vocabulary
    expected = TemperatureLogitsWarper(temperature)(NONE, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(NONE, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(NONE, expected)
    found = probabilities(logits, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    torch.testing.assert_close(found, expected.softmax(dim=-1), rtol=1e-9, atol=1e-12)


# Shares of a sum that is itself next to nothing have no thousandths.
@given(st.lists(st.just(0.0) | st.floats(1e-100, 1), min_size=1, max_size=12).filter(any))
def test_equally_spaced_numbers_draw_every_token_as_often_as_its_probability(weights: list[float]) -> None:
    numbers = 1000
    found = torch.tensor(weights, dtype=torch.float64)
    uniform = torch.arange(numbers, dtype=torch.float64) / numbers
    drawn = draw(found.expand(numbers, -1), uniform)
    counts = torch.bincount(drawn, minlength=len(weights))
    assert (counts - numbers * found / found.sum()).abs().max() <= 1 + 1e-9
    assert not counts[found == 0].any()


@pytest.mark.parametrize(
    "settings", [{"temperature": -0.1}, {"temperature": float("inf")}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        Sampling(**settings)
    assert GREEDY.greedy
