"""Llava with a projector whose width is not the language model's."""

from torch import nn
from transformers import LlavaForConditionalGeneration

from .configuration_wide_llava import WideLlavaConfig


class WideLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """Stock Llava with both layers of the projector replaced."""

    config_class = WideLlavaConfig

    def __init__(self, config: WideLlavaConfig) -> None:
        super().__init__(config)
        projector, width = self.model.multi_modal_projector, config.projector_hidden_size
        bias = config.multimodal_projector_bias
        projector.linear_1 = nn.Linear(projector.linear_1.in_features, width, bias=bias)
        projector.linear_2 = nn.Linear(width, projector.linear_2.out_features, bias=bias)
