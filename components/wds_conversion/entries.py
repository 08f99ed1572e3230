"""Entries of a LLaVA annotation file: read, numbered, keyed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.errors import InputError

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_KEY = 80  # a tar name holds 100 bytes, the extension included


def read_entries(path: Path) -> list[Any]:
    """Read the annotation file.

    Raises:
        InputError: It is missing, is not JSON, or is not a list of entries.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist. Name the annotation file of the raw dataset in `annotations`.")
    try:
        entries = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}. If it was cut off, download it again.") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f'{path} must hold a JSON list of entries like {{"id", "image", "conversations"}}.')
    return entries


def sample_keys(entries: list[Any]) -> Iterator[str]:
    """Yield one key per entry: its id made safe, with the row number where ids repeat or are missing.

    Keys hold letters, digits, `_` and `-` alone: WebDataset ends a key at its first dot, and `/` would make folders.
    """
    seen: set[str] = set()
    for row, entry in enumerate(entries):
        identifier = entry.get("id") if isinstance(entry, dict) else None
        text = str(identifier) if isinstance(identifier, str | int) else ""
        safe = _UNSAFE.sub("_", text).strip("_")[:_MAX_KEY] or f"row-{row:09d}"
        key, suffix = safe, ""
        while key in seen:
            suffix += f"-{row}"
            key = f"{safe[: _MAX_KEY - len(suffix)]}{suffix}"
        seen.add(key)
        yield key
