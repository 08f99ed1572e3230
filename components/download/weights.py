"""Pretrained models: which files of a repository are needed, checked and put in place."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.download.fetched import Choice, Fetched
from components.errors import InputError
from components.progress import Progress
from components.storage.transfer import link_or_copy

LANGUAGE = "language"
VISION = "vision"
OPENAI_SUFFIX = ".pt"

_CONFIG = "config.json"
_INDEX_SUFFIX = ".index.json"
# In order of preference: shards with their index, or one file; never pickles where there are safetensors.
_WEIGHTS = (
    (r"model-\d+-of-\d+\.safetensors", "model.safetensors.index.json"),
    (r"model\.safetensors", ""),
    (r"pytorch_model-\d+-of-\d+\.bin", "pytorch_model.bin.index.json"),
    (r"pytorch_model\.bin", ""),
)
_REQUIRED = {LANGUAGE: (_CONFIG, "tokenizer.json"), VISION: (_CONFIG,)}
_TEMPLATES = ("chat_template.jinja", "chat_template.json")  # where tokenizer_config.json does not hold it
_OPTIONAL = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "tokenizer.model",
    "LICENSE",
    "LICENSE.txt",
    "README.md",
)
TOKENIZER_FILES = (*_REQUIRED[LANGUAGE], *_OPTIONAL[:3], *_TEMPLATES)
"""Files of a language model that say how texts become tokens."""

_OWN_OPTIONAL = {LANGUAGE: _TEMPLATES, VISION: ("preprocessor_config.json", "processor_config.json")}


def needed_files(part: str) -> Choice:
    """Return what picks the needed files of a model: configuration, tokenizer, and its weights in one format.

    Args:
        part: "language" or "vision".
    """

    def choose(names: Sequence[str], shown: str) -> Sequence[str]:
        single = [name for name in names if name.endswith(OPENAI_SUFFIX)]
        if part == VISION and len(names) == 1 and single:
            return single
        for name in _REQUIRED[part]:
            if name not in names:
                raise InputError(f"{shown}/{name} is missing: expected a model in Hugging Face layout in {shown}.")
        weights = _weights(names)
        if not weights:
            kinds = "model*.safetensors and no pytorch_model*.bin"
            more = f", and is not one {OPENAI_SUFFIX} file" if part == VISION else ""
            raise InputError(
                f"{shown} has no {kinds}{more}. Load the model with transformers and store it with save_pretrained, which "
                "writes safetensors."
            )
        optional = [name for name in (*_OPTIONAL, *_OWN_OPTIONAL[part]) if name in names]
        return [*_REQUIRED[part], *weights, *optional]

    return choose


def place_model(fetched: Fetched, part: str, folder: Path, progress: Progress) -> dict[str, Any]:
    """Give a model's files a second name in the stage folder (copies across file systems).

    Args:
        fetched: The needed files.
        part: "language" or "vision".
        folder: The stage folder; existing files of the part are replaced.
        progress: Told how far copies are.

    Returns:
        Facts: source, files and bytes.

    Raises:
        InputError: An index names files that are not there.
    """
    for name in fetched.names:
        if name.endswith(_INDEX_SUFFIX):
            _check_index(fetched, name)
    shutil.rmtree(folder / part, ignore_errors=True)
    for name in fetched.names:
        link_or_copy(fetched.folder / name, folder / part / name, progress)
    size = sum(path.stat().st_size for path in fetched.paths)
    return {"source": fetched.shown, "files": len(fetched.names), "bytes": size}


def _weights(names: Sequence[str]) -> list[str]:
    for pattern, index in _WEIGHTS:
        found = sorted(name for name in names if re.fullmatch(pattern, name))
        if index and index in names:
            return [*found, index]
        if found and not index:
            return found
    return []


def _check_index(fetched: Fetched, name: str) -> None:
    path = fetched.folder / name
    try:
        named = set(json.loads(path.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is not an index of weight files: {error!r}. Download it again.") from error
    missing = sorted(named - set(fetched.names))
    if missing:
        raise InputError(f"{fetched.shown} lacks {', '.join(missing)}, which {name} names. Download the model again.")
