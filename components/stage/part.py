"""An input that is a part of another stage's folder: work is done again when what it read has changed, and not before."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import StageError
from components.stage.manifest import MANIFEST_NAME, read_manifest
from components.storage.checksum import content_key


@dataclass(frozen=True)
class Part:
    """Files of a finished stage folder that a stage reads.

    Attributes:
        folder: The folder.
        origin: Stage name and key of the folder.
        content: Hash of names and contents of the files, and of whatever else is read.
    """

    folder: Path
    origin: str
    content: str

    @property
    def identity(self) -> str:
        """What the reading stage's key depends on: equal files are the same input, whatever folder they come from."""
        return f"content {self.content}"


def part_of(folder: Path, names: Iterable[str], also: Any = None) -> Part:
    """Return files of a finished stage folder as an input of another stage.

    Args:
        folder: The folder.
        names: Files that are read, relative to it; of a folder all files below it.
        also: What else of it is read, as a JSON value: facts of its manifest, parts of a file.

    Raises:
        StageError: The folder is not finished, or its manifest does not list a file.
    """
    manifest = read_manifest(folder)
    contents: dict[str, str] = {}
    for name in names:
        found = {
            file: entry.sha256
            for file, entry in manifest.files.items()
            if file == name or file.startswith(f"{name.rstrip('/')}/")
        }
        if not found:
            raise StageError(f"{folder} has no {name}: {MANIFEST_NAME} does not list it. Run {manifest.stage} again.")
        contents |= found
    return Part(folder, f"{manifest.stage}/{manifest.key}", content_key({"files": contents, "also": also}))
