"""The model at tensor-parallel size 2, in real processes (gloo), against size 1 in this process."""

from pathlib import Path
from typing import Any

import pytest
import torch

from components.model.checkpoint.sharded import load_model
from components.model.config import read_model_config
from components.model.distributed import single_process
from components.model.vlm import VisionLanguageModel, build_model
from tests.support.model_samples import TOLERANCE, VOCABULARY, measure, packed, pixel_values, samples
from tests.support.model_worker import measure_rank
from tests.support.model_world import World, build_world
from tests.support.ranks import run_ranks


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def results(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes measured and saved."""
    folder = tmp_path_factory.mktemp("results")
    run_ranks(2, measure_rank, world.model, folder)
    return folder


@pytest.fixture(scope="module")
def two(results: Path) -> dict[str, Any]:
    return torch.load(results / "rank0.pt", weights_only=True)


@pytest.fixture(scope="module")
def one(world: World) -> dict[str, Any]:
    with single_process():
        return measure(loaded(world, world.model / "checkpoint"), loaded(world, world.model / "checkpoint", 0.2))


def loaded(world: World, checkpoint: Path, hidden_dropout: float = 0.0) -> VisionLanguageModel:
    model = build_model(read_model_config(world.model), hidden_dropout=hidden_dropout)
    load_model(model, checkpoint)
    return model


def test_logits_and_losses_do_not_depend_on_the_size(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (one["logits"] - two["logits"])[:, :VOCABULARY].abs().max() <= TOLERANCE
    assert (one["losses"] - two["losses"]).abs().max() <= TOLERANCE


def test_gradients_do_not_depend_on_the_size(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one["replicated_gradients"].keys() == two["replicated_gradients"].keys()
    for name, gradient in one["replicated_gradients"].items():
        difference = (gradient - two["replicated_gradients"][name]).abs().max()
        assert difference <= 2e-5 * max(1.0, float(gradient.abs().max())), name
    torch.testing.assert_close(one["split_gradient_squares"], two["split_gradient_squares"], rtol=1e-5, atol=0)


def test_ranks_agree_on_replicated_values(results: Path, two: dict[str, Any]) -> None:
    second = torch.load(results / "rank1.pt", weights_only=True)
    for name, gradient in two["replicated_gradients"].items():
        assert torch.equal(gradient, second["replicated_gradients"][name]), name
    assert torch.equal(two["dropout_losses"], second["dropout_losses"])
    assert torch.equal(two["drawn"], second["drawn"])


def test_split_attention_draws_other_numbers_and_leaves_the_common_ones_in_step(
    results: Path, two: dict[str, Any]
) -> None:
    second = torch.load(results / "rank1.pt", weights_only=True)
    assert not torch.equal(two["numbers_of_this_rank"], second["numbers_of_this_rank"])
    assert torch.equal(two["numbers_of_all_ranks"], second["numbers_of_all_ranks"])


def test_dropout_is_active_and_does_not_depend_on_the_size(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (one["dropout_losses"] - two["dropout_losses"]).abs().max() <= TOLERANCE
    assert (one["dropout_losses"] - one["losses"]).abs().max() > 0.01


def test_decoding_does_not_depend_on_the_size(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert torch.equal(one["decoded"], two["decoded"])
    assert torch.equal(one["drawn"], two["drawn"])
    assert not torch.equal(one["drawn"], one["decoded"])


def test_saved_at_size_two_loads_at_size_one(world: World, results: Path, one: dict[str, Any]) -> None:
    with single_process():
        model = loaded(world, results / "saved").eval()
        batch = packed(samples())
        with torch.no_grad():
            found = model(batch, pixel_values(batch))
    assert torch.equal(found, one["logits"])
