"""Source `file://`: language and vision model in Hugging Face layout."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from components.errors import InputError

LANGUAGE = "language"
VISION = "vision"

_CONFIG = "config.json"
_WEIGHTS = "model*.safetensors"
_INDEX = "model.safetensors.index.json"
_REQUIRED = {LANGUAGE: (_CONFIG, "tokenizer.json"), VISION: (_CONFIG,)}
_OPTIONAL = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "tokenizer.model",
    "preprocessor_config.json",
    "LICENSE",
    "LICENSE.txt",
    "README.md",
)


def link_weights(source: Path, folder: Path) -> dict[str, Any]:
    """Hard-link (copy across file systems) the models' files.

    Args:
        source: Folder with `language/` and `vision/`.
        folder: Where to write; existing files are replaced.

    Returns:
        Facts: files and bytes of each model.

    Raises:
        InputError: A model lacks a file.
    """
    facts: dict[str, Any] = {}
    for part, required in _REQUIRED.items():
        files = _model_files(source / part, required)
        shutil.rmtree(folder / part, ignore_errors=True)
        (folder / part).mkdir(parents=True)
        for path in files:
            _link(path, folder / part / path.name)
        facts[part] = {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
    return facts


def _model_files(folder: Path, required: tuple[str, ...]) -> list[Path]:
    for name in required:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing: expected a model in Hugging Face layout in {folder}.")
    weights = sorted(folder.glob(_WEIGHTS))
    if not weights:
        raise InputError(
            f"{folder} has no {_WEIGHTS}. Load the model with transformers and store it with save_pretrained, which writes safetensors."
        )
    index = [folder / _INDEX] if (folder / _INDEX).is_file() else []
    for path in index:
        missing = _indexed(path) - {weight.name for weight in weights}
        if missing:
            raise InputError(
                f"{folder} lacks {', '.join(sorted(missing))}, which {_INDEX} names. Download the model again."
            )
    optional = [folder / name for name in _OPTIONAL if (folder / name).is_file()]
    return [*(folder / name for name in required), *weights, *index, *optional]


def _indexed(path: Path) -> set[str]:
    try:
        return set(json.loads(path.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is not an index of safetensors files: {error!r}. Download it again.") from error


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)  # a hub cache holds symbolic links
    except OSError:
        shutil.copyfile(source, target)
