"""Model folders of every kind that the export has to express, made by the real stages from tiny random models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from components.combine.config import CombineConfig, ImageChoice, ProjectorSettings
from components.combine.stage import run_combine
from components.context import RunContext
from components.model.checkpoint.sharded import load_model
from components.model.config import read_model_config
from components.model.vlm import VisionLanguageModel, build_model
from components.weight_conversion.config import WeightConversionConfig
from components.weight_conversion.stage import run_weight_conversion
from tests.support.families import language_model, vision_tower
from tests.support.model_samples import SPECIAL_TOKENS
from tests.support.model_world import finished_weights, tokenizer

CONTROL_TOKENS = {
    "mistral": SPECIAL_TOKENS,
    "llama": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"],
}
TEXT_TOKENS = 286  # of the tokenizer below
HIDDEN = 48  # of the tiny language models
VOCABULARY_MULTIPLE = 128  # much padding: a forgotten row would show


def image_token_beyond(folder: Path) -> None:
    """Save a tokenizer whose image token comes after all text tokens."""
    tokenizer(folder, [name for name in SPECIAL_TOKENS if name != "[IMG]"])
    path = str(folder / "tokenizer.json")
    extended = Tokenizer.from_file(path)
    assert extended.get_vocab_size() == TEXT_TOKENS
    extended.add_special_tokens(["[IMG]"])
    extended.save(path)


def own_tokenizer(family: str) -> Callable[[Path], None]:
    """Return what saves a small tokenizer with the control tokens of a family; its chat template is the family's."""
    return lambda folder: tokenizer(folder, CONTROL_TOKENS[family])


class Sources:
    """The Hugging Face models that a model folder was made of, and that folder."""

    def __init__(
        self,
        folder: Path,
        *,
        families: tuple[str, str] = ("mistral", "clip"),
        language: dict[str, Any] | None = None,
        vision: dict[str, Any] | None = None,
        write_tokenizer: Callable[[Path], None] | None = None,
        projector: dict[str, Any] | None = None,
        image: dict[str, Any] | None = None,
        preprocessor: dict[str, Any] | None = None,
        feature_layer: int = -1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.weights, self.families = folder / "weights", families
        self.language = language_model(families[0], **(language or {}))
        self.vision = vision_tower(families[1], **(vision or {}))
        for name, model in (("language", self.language), ("vision", self.vision)):
            model.to(dtype).save_pretrained(self.weights / name)
        if preprocessor:
            (self.weights / "vision" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        (write_tokenizer or own_tokenizer(families[0]))(self.weights / "language")
        finished_weights(self.weights)
        self.context = RunContext(run_id="t", run_name="t", workspace=folder / "workspace")
        converted = {
            part: run_weight_conversion(
                self.context,
                WeightConversionConfig(
                    part=part,
                    make_vocab_size_divisible_by=VOCABULARY_MULTIPLE,
                    feature_layer=feature_layer,
                    verify=False,
                ),
                self.weights,
            ).folder
            for part in ("language", "vision")
        }
        settings = ProjectorSettings(**{"ffn_hidden_size": HIDDEN, "init_std": 0.2, **(projector or {})})
        config = CombineConfig(projector=settings, image=ImageChoice(**(image or {})), seed=5)
        self.model = run_combine(self.context, config, converted["language"], converted["vision"]).folder


def loaded(model: Path) -> VisionLanguageModel:
    """Return the model of a folder, as this project loads it; process groups must be set up."""
    built = build_model(read_model_config(model))
    load_model(built, model / "checkpoint")
    return built.eval()
