"""Joins the parts, parameter by parameter: strict reading for what is pretrained, an explicit seed for what is new."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from components.combine.config import CombineConfig, ImageChoice
from components.combine.initialisation import drawn_projector
from components.data.image_settings import ImageSettings
from components.data.tokenizer import ChatTokenizer
from components.errors import ConfigurationError, InputError
from components.model.checkpoint.sharded import PART_PREFIXES
from components.model.checkpoint.streamed import ParameterReader
from components.model.config import (
    CHECKPOINT_FOLDER,
    TOKENIZER_FOLDER,
    TORCH_DTYPES,
    LanguagePart,
    ModelConfig,
    ProjectorConfig,
    VisionPart,
    read_stored,
)
from components.model.vlm import VisionLanguageModel, outlined_model

_RECORDED_PACKAGES = ("torch", "megatron-core")


def read_parts(language: Path, vision: Path) -> tuple[LanguagePart, VisionPart]:
    """Read what the two converted parts are.

    Raises:
        InputError: A folder is no converted part, or the two are exchanged.
    """
    return read_stored(language, LanguagePart), read_stored(vision, VisionPart)


def combined_config(config: CombineConfig, language: LanguagePart, vision: VisionPart, tokenizer: Path) -> ModelConfig:
    """Describe the whole model.

    Args:
        config: The stage's settings.
        language: The language model.
        vision: The vision tower.
        tokenizer: Folder of the tokenizer.

    Raises:
        ConfigurationError: Image size or patch differ from the vision tower's, or the parts are of different types.
        InputError: The tokenizer has no image token, or more tokens than the language model.
    """
    if language.dtype != vision.dtype:
        raise ConfigurationError(
            f"The language model is stored as {language.dtype}, the vision tower as {vision.dtype}: set "
            "weight_conversion.language.dtype and weight_conversion.vision.dtype to the same type."
        )
    tokens = ChatTokenizer.load(tokenizer)
    rows = language.config.vocabulary_size
    # The image token alone may lie beyond the vocabulary: it is never looked up.
    text_tokens = tokens.vocabulary - int(tokens.image >= rows)
    if text_tokens > rows:
        raise InputError(
            f"{tokenizer} has {text_tokens} text tokens, the language model has {rows} (vocab_size of its config.json). "
            "Tokenizer and weights belong to different models."
        )
    try:
        return ModelConfig(
            language=language.config,
            vision=vision.config,
            projector=ProjectorConfig(
                depth=config.projector.depth,
                ffn_hidden_size=config.projector.ffn_hidden_size or language.config.hidden_size,
                activation=config.projector.activation,
                bias=config.projector.bias,
            ),
            image=image_settings(config.image, vision),
            image_token_id=tokens.image,
            versions={name: importlib.metadata.version(name) for name in _RECORDED_PACKAGES},
        )
    except ValidationError as error:
        problems = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise ConfigurationError(f"The settings of combine don't fit the weights: {problems}.") from error


def image_settings(choice: ImageChoice, vision: VisionPart) -> ImageSettings:
    """Return how pictures enter a tower: as it was trained, but for what is chosen otherwise.

    Args:
        choice: The stage's settings.
        vision: The vision tower.
    """
    own = {"size": vision.config.image_size, "patch": vision.config.patch_size, **vision.pixels.model_dump()}
    return ImageSettings(**{**own, **choice.model_dump(exclude_none=True)})


def joined_model(
    config: CombineConfig, architecture: ModelConfig, language: Path, vision: Path
) -> tuple[VisionLanguageModel, Callable[[str], Tensor]]:
    """Put the whole model together from its parts; process groups must be set up.

    Args:
        config: Projector and seed.
        architecture: The whole model.
        language: Folder of the converted language model.
        vision: Folder of the converted vision tower.

    Returns:
        The model as an outline without memory, and what reads each of its parameters.

    Raises:
        InputError: A part's checkpoint is damaged, incomplete, or does not fit its own `model.json`.
    """
    dtype = TORCH_DTYPES[read_stored(language, LanguagePart).dtype]
    model = outlined_model(architecture, dtype)
    readers: dict[str, Callable[[str], Tensor]] = {
        "language_model": ParameterReader(
            model.language_model, language / CHECKPOINT_FOLDER, PART_PREFIXES["language"]
        ),
        "vision_model": ParameterReader(model.vision_model, vision / CHECKPOINT_FOLDER, PART_PREFIXES["vision"]),
        "vision_projection": drawn_projector(config, architecture, dtype).__getitem__,
    }

    def read(name: str) -> Tensor:
        part, _, inner = name.partition(".")
        return readers[part](inner)

    return model, read


def tokenizer_folder(language: Path) -> Path:
    """Return the tokenizer's folder of a converted language model."""
    return language / TOKENIZER_FOLDER
