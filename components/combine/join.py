"""Joins the parts: strict loading for what is pretrained, an explicit seed for what is new."""

import importlib.metadata
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from components.combine.config import CombineConfig
from components.data.tokenizer import ChatTokenizer
from components.errors import ConfigurationError, InputError, StageError
from components.model.checkpoint import load_part
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
from components.model.vlm import VisionLanguageModel, build_model

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
        ConfigurationError: Image size or patch differ from the vision tower's.
        InputError: The tokenizer has no image token, or more tokens than the language model.
    """
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
                ffn_hidden_size=config.projector.ffn_hidden_size, activation=config.projector.activation
            ),
            image=config.image,
            image_token_id=tokens.image,
            versions={name: importlib.metadata.version(name) for name in _RECORDED_PACKAGES},
        )
    except ValidationError as error:
        problems = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise ConfigurationError(f"The settings of combine don't fit the weights: {problems}.") from error


def joined_model(config: CombineConfig, architecture: ModelConfig, language: Path, vision: Path) -> VisionLanguageModel:
    """Build the whole model from its parts, unsplit, on the CPU; process groups must be set up.

    Args:
        config: Projector and seed.
        architecture: The whole model.
        language: Folder of the converted language model.
        vision: Folder of the converted vision tower.

    Raises:
        InputError: A part's checkpoint is damaged, incomplete, or does not fit its own `model.json`.
        StageError: A parameter would be left without a value.
    """
    dtype = TORCH_DTYPES[read_stored(language, LanguagePart).dtype]
    model = build_model(architecture, dtype=dtype, device=torch.device("cpu"), layers="local")
    load_part(model.language_model, language / CHECKPOINT_FOLDER, "language")
    load_part(model.vision_model, vision / CHECKPOINT_FOLDER, "vision")
    _draw(model.vision_projection, config)
    filled = {
        id(parameter)
        for module in (model.language_model, model.vision_model, model.vision_projection)
        for parameter in module.parameters()
    }
    unfilled = [name for name, parameter in model.named_parameters() if id(parameter) not in filled]
    if unfilled:
        raise StageError(f"These parameters belong to no part and would have no value: {', '.join(unfilled)}.")
    return model


def tokenizer_folder(language: Path) -> Path:
    """Return the tokenizer's folder of a converted language model."""
    return language / TOKENIZER_FOLDER


def _draw(projector: nn.Module, config: CombineConfig) -> None:
    """Draw the projector's weights in float32, so that the type of storage does not change the sequence."""
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for _, parameter in sorted(projector.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * config.projector.init_std)
