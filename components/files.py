"""A file as every room sees it: its size and checksum, and its name while it is being written."""

import secrets
from pathlib import Path

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
