"""Features of a frozen tower: joined micro-batches give what single ones give, in few calls."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from hypothesis import given
from hypothesis import strategies as st

from components.data.packing import PackedBatch
from components.training.frozen_tower import features_of


@dataclass
class _Batch:
    pixels: torch.Tensor
    valid: torch.Tensor


class _Tower:
    """Sees the first pixel and the height; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, pixels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(pixels))
        return (pixels[:, 0, 0, 0] + 1000 * valid[:, 0])[:, None, None]


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 9))
def test_every_batch_gets_its_own_features(counts: list[int], limit: int) -> None:
    numbers = iter(range(1000))
    batches = [
        _Batch(
            torch.tensor([next(numbers) for _ in range(count)]).reshape(-1, 1, 1, 1),
            torch.tensor([[count, 7]] * count, dtype=torch.int64).reshape(-1, 2),
        )
        for count in counts
    ]
    tower = _Tower()
    found = list(features_of(cast("list[PackedBatch]", batches), cast("Any", tower), limit))
    assert len(found) == len(batches)
    for batch, features in zip(batches, found, strict=True):
        if len(batch.pixels):
            assert features is not None
            assert torch.equal(features, _Tower()(batch.pixels, batch.valid))
        else:
            assert features is None
    assert sum(tower.calls) == sum(counts)
    assert all(call <= max(limit, max(counts)) for call in tower.calls)
    # Two neighbours that fit together are not seen apart.
    assert all(left + right > limit for left, right in zip(tower.calls, tower.calls[1:], strict=False))
