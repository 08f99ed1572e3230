"""Configuration of a Llava model whose projector has a shape of its own."""

from huggingface_hub.dataclasses import strict
from transformers import LlavaConfig


@strict
class WideLlavaConfig(LlavaConfig):
    """Llava's configuration, and the projector's shape.

    Attributes:
        projector_depth: Number of the projector's layers.
        projector_hidden_size: Width between them.
        pixel_shuffle: Side of the square of patches that becomes one image token.
    """

    model_type = "wide_llava"

    projector_depth: int = 2
    projector_hidden_size: int = 4096
    pixel_shuffle: int = 1
