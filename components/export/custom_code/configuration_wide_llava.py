"""Configuration of a Llava model whose projector has a width of its own."""

from huggingface_hub.dataclasses import strict
from transformers import LlavaConfig


@strict
class WideLlavaConfig(LlavaConfig):
    """Llava's configuration, and the projector's width.

    Attributes:
        projector_hidden_size: Width between the projector's two layers.
    """

    model_type = "wide_llava"

    projector_hidden_size: int = 4096
