"""What can be converted: what each part is read from, built as, and checked against."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from components.errors import InputError
from components.model.config import TORCH_DTYPES, LanguagePart, StoredDtype, VisionConfig, VisionPart
from components.model.families.hf_config import read_hf_config
from components.model.families.language.registry import language_family, read_language
from components.model.families.rules import DropRule, TensorRule
from components.model.families.vision.encoder import vision_prefix
from components.model.families.vision.openai_clip import (
    openai_prefix,
    openai_vision_config,
    openai_vision_drops,
    openai_vision_rules,
)
from components.model.families.vision.pixels import PixelSource, read_pixels
from components.model.families.vision.registry import read_vision, vision_family
from components.model.language import LanguageModel
from components.model.transformer_config import BuildSettings
from components.model.vision_tower import VisionTower
from components.weight_conversion import verify
from components.weight_conversion.config import WeightConversionConfig
from components.weight_conversion.openai_clip import OpenAiFile
from components.weight_conversion.tensor_source import TensorSource

OPENAI_ARCHITECTURE = "OpenAI CLIP ViT"


@dataclass(frozen=True)
class Part:
    """A pretrained part as it was published, and what it becomes.

    Attributes:
        architecture: What it is, as `config.json` or the layout of the file says.
        stored: What `model.json` of the converted part holds.
        rules: What each parameter is made of.
        drops: What is left out on purpose.
        build: Builds the part unsplit, with plain layers and uninitialised parameters of a type.
        difference: Compares the output of a stored checkpoint with that of the source.
        pixel_source: Vision only: where its picture settings are from.
    """

    architecture: str
    stored: LanguagePart | VisionPart
    rules: list[TensorRule]
    drops: list[DropRule]
    build: Callable[[torch.dtype], nn.Module]
    difference: Callable[[Path], verify.Difference]
    pixel_source: PixelSource | None = None


def open_part(config: WeightConversionConfig, folder: Path, tensors: TensorSource) -> Part:
    """Read what a part is.

    Args:
        config: Which part, and how.
        folder: Where it lies.
        tensors: Its tensors.

    Raises:
        InputError: The architecture is not supported.
    """
    own_dtype: StoredDtype = "bfloat16" if tensors.dtypes == {torch.bfloat16} else "float32"
    dtype = own_dtype if config.dtype == "auto" else config.dtype
    if config.part == "language":
        return _language(config, folder, tensors, dtype)
    if isinstance(tensors, OpenAiFile):
        return _openai_vision(config, tensors, dtype)
    return _vision(config, folder, tensors, dtype)


def _language(config: WeightConversionConfig, folder: Path, tensors: TensorSource, dtype: StoredDtype) -> Part:
    if isinstance(tensors, OpenAiFile):
        raise InputError(f"{tensors.path} is no language model in Hugging Face layout.")
    content = read_hf_config(folder)
    architecture = read_language(content, config.make_vocab_size_divisible_by)
    family = language_family(architecture.family)

    def build(parameters: torch.dtype) -> nn.Module:
        return LanguageModel(architecture, BuildSettings(dtype=parameters)).to(parameters)

    return Part(
        architecture=content.architecture,
        stored=LanguagePart(config=architecture, dtype=dtype),
        rules=family.rules(architecture),
        drops=family.drops(architecture),
        build=build,
        difference=lambda checkpoint: verify.language_difference(
            folder, tensors, checkpoint, architecture, TORCH_DTYPES[dtype]
        ),
    )


def _vision(config: WeightConversionConfig, folder: Path, tensors: TensorSource, dtype: StoredDtype) -> Part:
    content = read_hf_config(folder)
    architecture = read_vision(content, config.feature_layer)
    family = vision_family(architecture.family)
    prefix = vision_prefix(tensors.names)
    pixels, pixel_source = read_pixels(folder, family)
    return Part(
        architecture=content.architecture,
        stored=VisionPart(config=architecture, pixels=pixels, dtype=dtype),
        pixel_source=pixel_source,
        rules=family.rules(architecture, prefix),
        drops=family.drops(architecture, prefix),
        build=_tower(architecture),
        difference=lambda checkpoint: verify.vision_difference(
            folder, tensors, prefix, checkpoint, architecture, TORCH_DTYPES[dtype]
        ),
    )


def _tower(architecture: VisionConfig) -> Callable[[torch.dtype], nn.Module]:
    return lambda parameters: VisionTower(architecture, BuildSettings(dtype=parameters)).to(parameters)


def _openai_vision(config: WeightConversionConfig, tensors: OpenAiFile, dtype: StoredDtype) -> Part:
    architecture = openai_vision_config(tensors.names, tensors.shape, str(tensors.path), config.feature_layer)
    prefix = openai_prefix(tensors.names)
    pixels = vision_family(architecture.family).pixels
    return Part(
        architecture=OPENAI_ARCHITECTURE,
        stored=VisionPart(config=architecture, pixels=pixels, dtype=dtype),
        pixel_source="the family's own",
        rules=openai_vision_rules(architecture, prefix),
        drops=openai_vision_drops(architecture, prefix),
        build=_tower(architecture),
        difference=lambda checkpoint: verify.openai_vision_difference(
            tensors, prefix, checkpoint, architecture, TORCH_DTYPES[dtype]
        ),
    )
