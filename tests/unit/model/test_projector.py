"""The projector of any depth, width, bias and pixel shuffle, at tensor parallel 1, 2 and 4, against plain PyTorch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.internvl.modeling_internvl import InternVLModel
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector

from components.errors import ConfigurationError
from components.model.checkpoint.sharded import save_model, stored_tensors
from components.model.checkpoint.streamed import ParameterReader
from components.model.config import ModelConfig
from components.model.distributed import single_process
from components.model.projector import pixel_shuffled
from components.model.vlm import build_model, outlined_model
from tests.support.model_config import CONFIG
from tests.support.plain_projector import projector_names
from tests.support.projector_shapes import SHAPES, inputs, plain, shaped
from tests.support.projector_worker import project
from tests.support.ranks import run_ranks

BOUND = 1e-5


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every plain projector's weights, stored from one process."""
    folders = []
    with single_process():
        for number, config in enumerate(SHAPES.values()):
            projector = build_model(config).vision_projection
            weights, names = dict(plain(number, config).named_parameters()), projector_names(config)
            projector.load_state_dict({names[name]: value for name, value in weights.items()})
            folders.append(tmp_path_factory.mktemp("checkpoint"))
            save_model(projector, folders[-1])
    return folders


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_outputs_and_all_gradients_equal_plain_layers(ranks: int, checkpoints: list[Path], tmp_path: Path) -> None:
    jobs = []
    for number, (config, checkpoint) in enumerate(zip(SHAPES.values(), checkpoints, strict=True)):
        features, direction = inputs(number, config)
        job = {"config": config.model_dump_json(), "checkpoint": str(checkpoint)}
        jobs.append({**job, "features": features, "direction": direction})
    torch.save(jobs, tmp_path / "jobs.pt")
    run_ranks(ranks, project, tmp_path)
    measured = torch.load(tmp_path / "measured.pt", weights_only=True)
    for number, (name, config) in enumerate(SHAPES.items()):
        projector, (features, direction) = plain(number, config), inputs(number, config)
        output = projector(features.requires_grad_())
        (output * direction).sum().backward()
        found = measured[number]
        assert (found["output"] - output).abs().max() <= BOUND * output.abs().max(), name
        assert (found["features"] - features.grad).abs().max() <= BOUND * features.grad.abs().max(), name
        expected = dict(projector.named_parameters())
        with single_process():
            read = ParameterReader(outlined_model(config).vision_projection, tmp_path / f"gradients-{number}")
            assert set(read.names) == set(projector_names(config).values())
            for plain_name, own in projector_names(config).items():
                gradient = expected[plain_name].grad
                assert (read(own) - gradient).abs().max() <= BOUND * gradient.abs().max(), (name, own)
        # Clipping sees every gradient once: what is split is summed over the ranks, what is whole is not.
        norm = torch.stack([parameter.grad.norm() for parameter in expected.values()]).norm()
        assert abs(found["norm"] - norm) <= BOUND * norm, name


def test_two_layers_are_stored_under_megatron_cores_names(checkpoints: list[Path]) -> None:
    assert stored_tensors(checkpoints[list(SHAPES).index("two layers")]) == {
        "encoder.linear_fc1.weight": (40, 32),
        "encoder.linear_fc2.weight": (48, 40),
    }


def test_a_model_without_the_newer_settings_has_two_layers_on_single_patches() -> None:
    content = CONFIG.model_dump()
    content["projector"] = {"ffn_hidden_size": 40, "activation": "silu"}
    del content["image"]["pixel_shuffle"]
    assert ModelConfig.model_validate(content).projector_layers == [(32, 40), (40, 48)]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 2))
def test_pixel_shuffle_has_the_order_of_idefics_smolvlm_and_internvl(
    side: int, squares: int, hidden: int, pictures: int
) -> None:
    grid = side * squares
    features = torch.arange(pictures * grid**2 * hidden).float().view(pictures, grid**2, hidden)
    found = pixel_shuffled(features, side)
    for connector in (Idefics3Connector, SmolVLMConnector):
        unbound: Any = connector.pixel_shuffle
        assert torch.equal(found, unbound(None, features, side))
    if side in (1, 2, 4):  # InternVL's factor is a fraction, which is exact for these
        internvl: Any = InternVLModel.pixel_shuffle
        expected = internvl(None, features.view(pictures, grid, grid, hidden), 1 / side)
        assert torch.equal(found, expected.flatten(1, 2))


@pytest.fixture
def three_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from megatron.core import parallel_state

    with single_process():
        monkeypatch.setattr(parallel_state, "get_tensor_model_parallel_world_size", lambda: 3)
        yield


@pytest.mark.parametrize(
    ("config", "named"),
    [(shaped(), "projector.ffn_hidden_size = 40"), (shaped(depth=3, ffn_hidden_size=42), "")],
)
def test_widths_that_the_ranks_do_not_divide_are_refused(three_ranks: None, config: ModelConfig, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build_model(config)
    assert named in str(caught.value)
    assert ("projector" in str(caught.value)) == bool(named)
