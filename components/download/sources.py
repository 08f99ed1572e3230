"""Source URIs: what they name, and what identifies the content behind them."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from components.errors import ConfigurationError, InputError
from components.storage.checksum import sha256_file


def split_source(source: str, setting: str, generated: str) -> Path | None:
    """Read a source URI.

    Args:
        source: The URI.
        setting: Name of the setting, for errors.
        generated: The scheme of what the stage makes itself ("scenes" or "random").

    Returns:
        The folder of a `file://` source, None for the generated source.

    Raises:
        ConfigurationError: Another scheme, or no absolute path.
        InputError: The folder does not exist.
    """
    parts = urlsplit(source)
    if parts.scheme == generated:
        if parts.netloc or parts.path:
            raise ConfigurationError(f"{setting} is {source!r}: {generated}:// takes nothing after it.")
        return None
    if parts.scheme != "file":
        raise ConfigurationError(
            f"{setting} is {source!r}. This version knows {generated}:// and file:///ABSOLUTE/FOLDER; "
            "download anything else (http, s3, Hugging Face) to a folder first and name that."
        )
    folder = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not folder.is_absolute():
        raise ConfigurationError(f"{setting} is {source!r}: expected file:///ABSOLUTE/FOLDER with three slashes.")
    if not folder.is_dir():
        raise InputError(f"{setting} names {folder}, which is not a folder on this machine.")
    return folder


def walk_files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield relative path and stat of every file below a folder in a fixed order, hidden ones left out."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                path = os.path.join(parent, name)
                yield os.path.relpath(path, folder), os.stat(path)


def folder_identity(folder: Path) -> str:
    """Return a string that changes when a file below the folder is added, removed, resized or written again."""
    digest = hashlib.sha256()
    for name, facts in walk_files(folder):
        digest.update(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return f"{folder}#{digest.hexdigest()}"


def check_lock(folder: Path, expected: Mapping[str, str], setting: str) -> None:
    """Compare files with their expected SHA-256.

    Raises:
        InputError: A file is missing or another.
    """
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{setting} names {name}, but {path} does not exist.")
        found = sha256_file(path)
        if found != digest.lower():
            raise InputError(
                f"{path} has SHA-256 {found}, {setting} expects {digest}. Is it complete, and the right version?"
            )
