"""What a family of vision towers has to say."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from components.data.image_settings import ImageLayout, PixelSettings
from components.model.config import VisionConfig
from components.model.families.hf_config import HfConfig
from components.model.families.rules import DropRule, TensorRule


@dataclass(frozen=True)
class VisionFamily:
    """A family of vision towers as Hugging Face publishes them.

    Attributes:
        name: The registry's key, in `VisionConfig.family`.
        model_types: Every `model_type` that a `config.json` with such a tower has: of the tower alone, of the whole model.
        architectures: Names of the classes that are read.
        read: `config.json` and the feature layer (-1 the last) become the architecture.

            Raises `InputError` where the tower has a feature that is not supported.
        rules: What each parameter is made of, given what the source names begin with ("vision_model." or nothing).
        drops: What is left out on purpose, given the same.
        settings: The fields of transformers' vision configuration that describe an architecture.
        pixels: How its pictures are resized and normalised where a folder does not say it.
        image_processor: transformers' class that prepares its pictures.
        layout: What that class does to the aspect ratio.
        reference: Builds transformers' tower as a folder's `config.json` describes it, to compare with. Layers above the
            feature layer are part of it; they lie in `encoder.layers`.
        examples: Names that it was published under, for people.
    """

    name: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    read: Callable[[HfConfig, int], VisionConfig]
    rules: Callable[[VisionConfig, str], list[TensorRule]]
    drops: Callable[[VisionConfig, str], list[DropRule]]
    settings: Callable[[VisionConfig], dict[str, Any]]
    pixels: PixelSettings
    image_processor: str
    layout: ImageLayout
    reference: Callable[[Path], nn.Module]
    examples: tuple[str, ...]
