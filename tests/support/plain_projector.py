"""The projector in plain PyTorch, with the pixel shuffle of transformers' Idefics3: what ours is compared with."""

from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

from components.model.config import ModelConfig


class PlainProjector(nn.Module):
    """Parameters are named as in transformers' Llava: `linear_1.weight`, `linear_1.bias` and so on."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.side, self.depth = config.image.pixel_shuffle, config.projector.depth
        self.activation = ACT2FN[config.projector.activation]
        for number, (inputs, outputs) in enumerate(config.projector_layers, start=1):
            self.add_module(f"linear_{number}", nn.Linear(inputs, outputs, bias=config.projector.bias))

    def forward(self, features: Tensor) -> Tensor:
        """Project [N, patches, hidden of the tower] to [N, image tokens, hidden of the language model]."""
        unbound: Any = Idefics3Connector.pixel_shuffle
        hidden: Tensor = unbound(None, features.contiguous(), self.side)
        for number in range(1, self.depth + 1):
            hidden = self.get_submodule(f"linear_{number}")(hidden if number == 1 else self.activation(hidden))
        return hidden


def projector_names(config: ModelConfig) -> dict[str, str]:
    """Return the name of every parameter of the plain projector, and its name in this project's."""
    kinds = ("weight", "bias") if config.projector.bias else ("weight",)
    return {
        f"linear_{number}.{kind}": f"encoder.linear_fc{number}.{kind}"
        for number in range(1, config.projector.depth + 1)
        for kind in kinds
    }
