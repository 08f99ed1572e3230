"""Projectors of every shape: depth, width, bias, activation, pixel shuffle."""

from typing import Any

import torch
from torch import Tensor

from components.model.config import ModelConfig
from tests.support.model_config import CONFIG, changed
from tests.support.plain_projector import PlainProjector

PICTURES = 3


def shaped(pixel_shuffle: int = 1, **projector: Any) -> ModelConfig:
    """The small model with another projector, 4 x 4 patches, and heads for four ranks."""
    return changed(
        CONFIG,
        language={**CONFIG.language.model_dump(), "num_query_groups": 4},
        vision={**CONFIG.vision.model_dump(), "image_size": 32},
        image={**CONFIG.image.model_dump(), "size": 32, "pixel_shuffle": pixel_shuffle},
        projector={"ffn_hidden_size": 40, **projector},
    )


SHAPES = {
    "linear": shaped(depth=1),
    "linear, bias, shuffled": shaped(depth=1, bias=True, pixel_shuffle=2),
    "two layers": shaped(),
    "two layers, bias, GELU": shaped(bias=True, activation="gelu"),
    "two layers, bias, shuffled": shaped(bias=True, pixel_shuffle=4),
    "three layers, bias": shaped(depth=3, bias=True, activation="gelu"),
    "four layers, bias, shuffled": shaped(depth=4, bias=True, pixel_shuffle=2),
}


def plain(number: int, config: ModelConfig) -> PlainProjector:
    """A projector in plain PyTorch, drawn from a seed."""
    torch.manual_seed(number)
    projector = PlainProjector(config)
    for parameter in projector.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return projector


def inputs(number: int, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Features, and the direction in which the output is differentiated."""
    generator = torch.Generator().manual_seed(number)
    features = torch.randn(PICTURES, config.vision.patches, config.vision.hidden_size, generator=generator)
    return features, torch.randn(PICTURES, config.image.tokens, config.language.hidden_size, generator=generator)
