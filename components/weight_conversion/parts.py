"""The two parts that can be converted: what each is read from, built as, and checked against."""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import nn

from components.model.clip import ClipVisionTower
from components.model.config import TORCH_DTYPES, LanguagePart, StoredDtype, VisionPart
from components.model.hf_config import architecture_of, language_config, read_hf_config, vision_config
from components.model.hf_mapping import (
    DropRule,
    TensorRule,
    language_drops,
    language_rules,
    vision_drops,
    vision_prefix,
    vision_rules,
)
from components.model.language import LanguageModel
from components.model.transformer_config import BuildSettings
from components.weight_conversion.config import WeightConversionConfig
from components.weight_conversion.safetensors_folder import SafetensorsFolder
from components.weight_conversion.verify import language_difference, vision_difference


class Part(ABC):
    """A pretrained part in Hugging Face layout.

    Attributes:
        source: Its folder.
        architecture: Its name in `config.json`.
        rules: What each parameter is made of.
        drops: What is left out on purpose.
    """

    source: Path
    architecture: str
    rules: list[TensorRule]
    drops: list[DropRule]

    @property
    @abstractmethod
    def stored(self) -> LanguagePart | VisionPart:
        """What `model.json` of the converted part holds."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Build the part unsplit, with plain layers and uninitialised parameters."""

    @abstractmethod
    def difference(self, checkpoint: Path) -> float:
        """Return the largest difference between the output of the stored checkpoint and the source's."""


class _Language(Part):
    def __init__(self, config: WeightConversionConfig, source: Path, dtype: StoredDtype) -> None:
        content = read_hf_config(source)
        self.source = source
        self.architecture = architecture_of(content)
        self.config = language_config(content, str(source / "config.json"), config.make_vocab_size_divisible_by)
        self.dtype = dtype
        self.rules, self.drops = language_rules(self.config), language_drops(self.config)

    @property
    def stored(self) -> LanguagePart:
        return LanguagePart(config=self.config, dtype=self.dtype)

    def build(self) -> nn.Module:
        return LanguageModel(self.config, _build_settings(self.dtype)).to(TORCH_DTYPES[self.dtype])

    def difference(self, checkpoint: Path) -> float:
        return language_difference(self.source, checkpoint, self.config, TORCH_DTYPES[self.dtype])


class _Vision(Part):
    def __init__(self, config: WeightConversionConfig, source: Path, dtype: StoredDtype, names: list[str]) -> None:
        content = read_hf_config(source)
        self.source = source
        self.architecture = architecture_of(content)
        self.config = vision_config(content, str(source / "config.json"), config.feature_layer)
        self.dtype = dtype
        prefix = vision_prefix(names)
        self.rules, self.drops = vision_rules(self.config, prefix), vision_drops(self.config, prefix)

    @property
    def stored(self) -> VisionPart:
        return VisionPart(config=self.config, dtype=self.dtype)

    def build(self) -> nn.Module:
        return ClipVisionTower(self.config, _build_settings(self.dtype)).to(TORCH_DTYPES[self.dtype])

    def difference(self, checkpoint: Path) -> float:
        return vision_difference(self.source, checkpoint, self.config, TORCH_DTYPES[self.dtype])


def open_part(config: WeightConversionConfig, source: Path, tensors: SafetensorsFolder) -> Part:
    """Read what a part is.

    Args:
        config: Which part, and how.
        source: Its folder in Hugging Face layout.
        tensors: Its tensors.

    Raises:
        InputError: The architecture is not supported.
    """
    own_dtype: StoredDtype = "bfloat16" if tensors.dtypes == {torch.bfloat16} else "float32"
    dtype = own_dtype if config.dtype == "auto" else config.dtype
    if config.part == "language":
        return _Language(config, source, dtype)
    return _Vision(config, source, dtype, tensors.names)


def _build_settings(dtype: StoredDtype) -> BuildSettings:
    return BuildSettings(dtype=TORCH_DTYPES[dtype])
