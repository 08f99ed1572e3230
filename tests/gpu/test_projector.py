"""The projector of every shape on a GPU against plain PyTorch on the CPU."""

from collections.abc import Iterator

import pytest
import torch

from components.model.distributed import destroy, initialize
from components.model.vlm import build_model
from tests.support.plain_projector import projector_names
from tests.support.projector_shapes import SHAPES, inputs, plain

# As in test_model.py: Transformer Engine's products round their operands to TF32.
BOUNDS = {"local": 1e-5, "transformer_engine": 5e-3}


@pytest.fixture(scope="module", autouse=True)
def processes() -> Iterator[None]:
    assert initialize(1).device.type == "cuda"
    yield
    destroy()


@pytest.mark.parametrize("name", SHAPES)
def test_outputs_and_gradients_equal_plain_layers(name: str, layers: str) -> None:
    config, number = SHAPES[name], list(SHAPES).index(name)
    projector = build_model(config, layers=layers).vision_projection  # type: ignore[arg-type]
    reference, (features, direction) = plain(number, config), inputs(number, config)
    with torch.no_grad():
        for plain_name, own in projector_names(config).items():
            projector.get_parameter(own).copy_(reference.get_parameter(plain_name))
    expected = reference(features)
    (expected * direction).sum().backward()
    found = projector(features.cuda())
    (found * direction.cuda()).sum().backward()
    pairs = [(found.detach(), expected.detach())]
    pairs += [
        (projector.get_parameter(own).grad, reference.get_parameter(plain_name).grad)
        for plain_name, own in projector_names(config).items()
    ]
    for left, right in pairs:
        assert (left.cpu() - right).abs().max() <= BOUNDS[layers] * right.abs().max()
