"""A file as every room sees it: its size and checksum, and its name while it is being written."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from pydantic import BaseModel

TEMPORARY_SUFFIX = ".tmp"


class FileEntry(BaseModel):
    """One file of a finished folder: size in bytes and SHA-256 in hexadecimal."""

    size: int
    sha256: str


def temporary_beside(path: Path) -> Path:
    """Return a name in the same folder for writing `path` under, another one at every call.

    A process id would not do: containers that share a volume have the same ones, and so have threads.
    """
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")


def replace_text(path: Path, text: str, flush: bool = False) -> None:
    """Replace a small UTF-8 file, so that readers see the old one or the new one.

    Args:
        path: The file; its folder is there.
        text: Its new content.
        flush: Wait for the disk first: without, the file may be empty after a power cut.
    """
    temporary = temporary_beside(path)
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
        if flush:
            stream.flush()
            os.fsync(stream.fileno())
    os.replace(temporary, path)


def read_hint(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file that may be missing or, after a power cut, empty; nothing depends on its being there."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
