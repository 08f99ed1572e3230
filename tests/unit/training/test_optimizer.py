"""How the optimizer's state is spread, and what it sums up; that shards train bit for bit is tested with real processes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.model.distributed import single_process
from components.training.config import Recipe
from components.training.optimizer import MasterWeightAdamW, assign_owners

RECIPE: dict[str, Any] = {
    "train_language": True,
    "train_vision": True,
    "prompt_format": "plain",
    "iterations": 1,
    "global_batch_size": 1,
    "sequence_length": 8,
    "learning_rate": 1e-2,
    "min_learning_rate": 0,
    "save_interval": 1,
    "clip_grad": 0.5,
}


@pytest.fixture
def processes() -> Iterator[None]:
    with single_process():
        yield


@given(st.lists(st.integers(1, 10**9)), st.integers(1, 20))
def test_every_parameter_has_one_owner_and_no_rank_much_more_than_its_share(sizes: list[int], ranks: int) -> None:
    parts = assign_owners(sizes, ranks)
    assert len(parts) == ranks
    assert sorted(index for part in parts for index in part) == list(range(len(sizes)))
    assert all(part == sorted(part) for part in parts)
    filled = [sum(sizes[index] for index in part) for part in parts]
    assert max(filled) <= sum(sizes) / ranks + max(sizes, default=0)


@pytest.mark.usefixtures("processes")
def test_bf16_gradients_are_summed_in_fp32_and_freed_during_the_backward_pass() -> None:
    model = torch.nn.Linear(4, 3).bfloat16()
    optimizer = MasterWeightAdamW(model, Recipe(**RECIPE))
    masters = {index: master.detach().clone() for index, master in optimizer.masters.items()}
    inputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    gradients = []
    for one in inputs:
        model(one).square().sum().backward()
        assert all(parameter.grad is None for parameter in model.parameters())
        copy = torch.nn.Linear(4, 3).bfloat16()
        copy.load_state_dict(model.state_dict())
        copy(one).square().sum().backward()
        gradients.append([parameter.grad.float() for parameter in copy.parameters()])
    norm = optimizer.step(1e-2)
    sums = [torch.stack(parts).sum(dim=0) for parts in zip(*gradients, strict=True)]
    assert norm == pytest.approx(float(torch.cat([total.flatten() for total in sums]).norm()), rel=1e-6)
    # torch's own AdamW on the fp32 copies, with the same clipping.
    expected = [torch.nn.Parameter(masters[index]) for index in masters]
    for parameter, total in zip(expected, sums, strict=True):
        parameter.grad = total
    torch.nn.utils.clip_grad_norm_(expected, 0.5)
    torch.optim.AdamW(
        [{"params": expected[:1], "weight_decay": 0.01}, {"params": expected[1:], "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.9, 0.95),
        eps=1e-8,
    ).step()
    for parameter, master, other in zip(model.parameters(), optimizer.masters.values(), expected, strict=True):
        torch.testing.assert_close(master, other, rtol=1e-6, atol=1e-7)
        assert torch.equal(parameter, master.bfloat16())
