"""The projector's first weights, drawn from an explicit seed."""

import math

import torch
from torch import Tensor

from components.combine.config import CombineConfig
from components.model.config import ModelConfig


def drawn_projector(config: CombineConfig, architecture: ModelConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Draw the projector's parameters.

    They are drawn in float32, layer by layer, so that the type of storage does not change the sequence.

    Args:
        config: How they are drawn, and the seed.
        architecture: The whole model.
        dtype: Type of storage.

    Returns:
        Name within the projector to value, unsplit.
    """
    generator = torch.Generator().manual_seed(config.seed)
    settings = config.projector
    layers = architecture.projector_layers
    drawn: dict[str, Tensor] = {}
    for number, (inputs, outputs) in enumerate(layers, start=1):
        if settings.init == "uniform":
            bound = 1 / math.sqrt(inputs)
            weight = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
            bias = torch.empty(outputs).uniform_(-bound, bound, generator=generator)
        else:
            deviation = settings.init_std
            if settings.init == "scaled" and 1 < number == len(layers):
                deviation /= math.sqrt(2 * architecture.language.num_layers)
            weight = torch.randn(outputs, inputs, generator=generator) * deviation
            bias = torch.zeros(outputs)
        drawn[f"encoder.linear_fc{number}.weight"] = weight.to(dtype)
        if settings.bias:
            drawn[f"encoder.linear_fc{number}.bias"] = bias.to(dtype)
    return drawn
