"""The tokenizer's files travel with the language model."""

import shutil
from pathlib import Path

from components.errors import InputError

REQUIRED_FILE = "tokenizer.json"
_OPTIONAL_FILES = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "tokenizer.model")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files.

    Args:
        source: The language model in Hugging Face layout.
        target: The new folder; what an interrupted run has left there is replaced.

    Raises:
        InputError: There is no `tokenizer.json`.
    """
    if not (source / REQUIRED_FILE).is_file():
        raise InputError(f"{source / REQUIRED_FILE} is missing: the language model comes without a fast tokenizer.")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in (REQUIRED_FILE, *_OPTIONAL_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
