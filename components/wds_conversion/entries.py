"""Entries of a LLaVA annotation file: read one after the other, numbered, keyed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.data.json_list import CHUNK_BYTES, read_json_list
from components.errors import InputError

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_KEY = 80  # a tar name holds 100 bytes, the extension included


def read_entries(path: Path, offset: int = 0, chunk_bytes: int = CHUNK_BYTES) -> Iterator[tuple[int, Any]]:
    """Yield the entries of an annotation file, a JSON list, with their byte offsets; see `read_json_list`.

    Raises:
        InputError: The file is missing, is not JSON, or is not a list of entries.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist. Name the annotation file of the raw dataset in `annotations`.")
    with open(path, "rb") as stream:
        yield from read_json_list(stream, str(path), offset, chunk_bytes)


class KeyMaker:
    """Makes one key per entry: its id made safe, with the row number where ids repeat or are missing.

    Keys hold letters, digits, `_` and `-` alone: WebDataset ends a key at its first dot, and `/` would make folders.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def key(self, row: int, entry: Any) -> str:
        """Return the key of an entry; rows must come in order."""
        identifier = entry.get("id") if isinstance(entry, dict) else None
        text = str(identifier) if isinstance(identifier, str | int) else ""
        safe = _UNSAFE.sub("_", text).strip("_")[:_MAX_KEY] or f"row-{row:09d}"
        key, suffix = safe, ""
        while key in self._seen:
            suffix += f"-{row}"
            key = f"{safe[: _MAX_KEY - len(suffix)]}{suffix}"
        self._seen.add(key)
        return key
