"""Llava with a projector whose depth and width are its own, and which may put squares of patches into one image token."""

from itertools import pairwise
from math import isqrt

from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration
from transformers.activations import ACT2FN

from .configuration_wide_llava import WideLlavaConfig


class WideLlavaProjector(nn.Module):
    """The pixel shuffle, then linear layers with an activation between them."""

    def __init__(self, config: WideLlavaConfig, tower_width: int, language_width: int) -> None:
        super().__init__()
        self.side, self.depth = config.pixel_shuffle, config.projector_depth
        between = [config.projector_hidden_size] * (self.depth - 1)
        widths = [tower_width * self.side**2, *between, language_width]
        for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            self.add_module(f"linear_{number}", nn.Linear(inputs, outputs, bias=config.multimodal_projector_bias))
        self.act = ACT2FN[config.projector_hidden_act]

    def forward(self, features: Tensor) -> Tensor:
        """Project features.

        Args:
            features: [pictures, patches, hidden of the tower], the patches of a square picture row by row.

        Returns:
            [pictures, image tokens, hidden of the language model].
        """
        if self.side > 1:  # squares row by row, and within a square its patches row by row
            squares = isqrt(features.shape[1]) // self.side
            features = features.unflatten(1, (squares, self.side, squares, self.side)).transpose(2, 3)
            features = features.flatten(3).flatten(1, 2)
        for number in range(1, self.depth + 1):
            layer = self.get_submodule(f"linear_{number}")
            features = layer(features if number == 1 else self.act(features))
        return features


class WideLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """Stock Llava with the projector replaced."""

    config_class = WideLlavaConfig

    def __init__(self, config: WideLlavaConfig) -> None:
        super().__init__(config)
        stock = self.model.multi_modal_projector
        widths = stock.linear_1.in_features, stock.linear_2.out_features
        self.model.multi_modal_projector = WideLlavaProjector(config, *widths)
