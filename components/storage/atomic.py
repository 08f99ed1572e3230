"""Atomic writes: a file appears complete or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from components.files import temporary_beside


@contextmanager
def open_atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing and rename it into place on success.

    Args:
        path: Final path; its folder is created.
        mode: "wb" for bytes or "w" for UTF-8 text.

    Yields:
        The open temporary file. If the block raises, the temporary file is removed and `path` is left as it was. Of several
        writers at once, the last to end decides what `path` has.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode, encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def flush_to_disk(path: Path) -> None:
    """Wait until the disk has a file's content."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the disk has a folder's entries: what was created and renamed in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with open_atomic(path, "w") as stream:
        stream.write(text)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically."""
    with open_atomic(path, "wb") as stream:
        stream.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
