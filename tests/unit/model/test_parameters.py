"""Parameters that are counted by formula, against those of the model that is built."""

from typing import Any

import pytest

from components.model.config import ModelConfig
from components.model.distributed import single_process
from components.model.parameters import Parameters, parameters_of
from components.model.vlm import outlined_model
from tests.support.model_config import CONFIG, changed
from tests.support.projector_shapes import SHAPES

SIGLIP = {"family": "siglip", "class_token": False, "pre_norm": False, "patch_bias": True, "activation": "gelu_tanh"}


@pytest.mark.parametrize(
    ("language", "vision"),
    [
        ({}, {}),
        ({"tied_embeddings": True, "qkv_bias": True, "family": "qwen2"}, {"feature_layer": -1}),
        ({"qk_norm": True, "family": "qwen3", "num_query_groups": 4}, SIGLIP),
    ],
)
def test_parts_of_the_built_model(language: dict[str, Any], vision: dict[str, Any]) -> None:
    config = changed(
        CONFIG,
        language={**CONFIG.language.model_dump(), **language},
        vision={**CONFIG.vision.model_dump(), **vision},
    )
    assert parameters_of(config) == built_parameters(config)


@pytest.mark.parametrize("name", SHAPES)
def test_a_projector_of_any_shape(name: str) -> None:
    config = SHAPES[name]
    assert parameters_of(config)["projection"] == built_parameters(config)["projection"]


def built_parameters(config: ModelConfig) -> dict[str, Parameters]:
    with single_process():
        model = outlined_model(config)
    modules = {"vision": model.vision_model, "projection": model.vision_projection, "language": model.language_model}
    counted = {}
    for part, module in modules.items():
        sizes = {True: [0], False: [0]}
        for parameter in module.parameters():
            sizes[bool(getattr(parameter, "tensor_model_parallel", False))].append(parameter.numel())
        largest = max(sizes[True] + sizes[False])
        counted[part] = Parameters(split=sum(sizes[True]), whole=sum(sizes[False]), largest=largest)
    return counted


def test_a_rank_holds_its_share_of_what_is_split() -> None:
    assert Parameters(split=80, whole=3, largest=40).of_a_rank(4) == 23
