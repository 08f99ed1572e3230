"""Llava with a projector whose width is not the language model's."""

from torch import nn
from transformers import LlavaForConditionalGeneration

from .configuration_wide_llava import WideLlavaConfig


class WideLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """Stock Llava with both layers of the projector replaced."""

    config_class = WideLlavaConfig

    def __init__(self, config: WideLlavaConfig) -> None:
        super().__init__(config)
        projector, width, bias = (
            self.model.multi_modal_projector,
            config.projector_hidden_size,
            config.multimodal_projector_bias,
        )
        projector.linear_1 = nn.Linear(config.vision_config.hidden_size, width, bias=bias)
        projector.linear_2 = nn.Linear(width, config.text_config.hidden_size, bias=bias)
