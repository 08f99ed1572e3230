"""The manifest: what makes a stage folder finished."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import StageError
from components.files import TEMPORARY_SUFFIX, FileEntry
from components.storage.atomic import write_text
from components.storage.checksum import sha256_file

MANIFEST_NAME = "manifest.json"


class Manifest(BaseModel):
    """Written last into a stage folder, by rename: a folder with a manifest is complete.

    Attributes:
        stage: Stage name.
        version: Version of the stage's output format; part of the key.
        key: Content key of inputs and settings; the folder's name.
        inputs: Input name to the input's own identity (the key of the stage folder, or a URI).
        settings: The stage's settings as validated.
        read_from: Input name to stage name and key of the folder that it was read from, for inputs of which only a part is
            read: their identity is the part's content.
        facts: What the stage found or made: counts, sizes, losses, scores.
        files: Path relative to the folder to size and checksum.
        started: UTC start time, ISO 8601.
        duration_s: Wall-clock seconds of the run that finished the folder.
    """

    model_config = ConfigDict(extra="forbid")

    stage: str
    version: int
    key: str
    inputs: dict[str, str]
    read_from: dict[str, str] = {}
    settings: dict[str, Any]
    facts: dict[str, Any]
    files: dict[str, FileEntry]
    started: str
    duration_s: float

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())


def list_files(folder: Path, known: Mapping[str, FileEntry] = MappingProxyType({})) -> dict[str, FileEntry]:
    """Return size and checksum of every file below `folder`, leaving out manifests and temporary files.

    Args:
        folder: Stage folder.
        known: Entries that need not be computed again, by path relative to the folder; one whose size differs is.
    """
    entries = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST_NAME and not path.name.endswith(TEMPORARY_SUFFIX):
            name, size = path.relative_to(folder).as_posix(), path.stat().st_size
            entry = known.get(name)
            entries[name] = entry if entry and entry.size == size else FileEntry(size=size, sha256=sha256_file(path))
    return entries


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a finished folder by rename."""
    write_text(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a finished stage folder.

    Raises:
        StageError: The folder has no manifest (the stage did not finish), or it can't be read.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise StageError(
            f"{folder} is not a finished stage folder: it has no {MANIFEST_NAME}. Run the stage that writes it again."
        )
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise StageError(
            f"{path} is not a valid manifest: {error}. Delete the folder and run its stage again."
        ) from error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that every file of the manifest is there with its size.

    Raises:
        StageError: A file is missing or has another size.
    """
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise StageError(
                f"{path} is missing although {MANIFEST_NAME} lists it. Delete {folder} and run the stage again."
            )
        if path.stat().st_size != entry.size:
            raise StageError(
                f"{path} has {path.stat().st_size} bytes, {MANIFEST_NAME} says {entry.size}. Delete {folder} and run the stage again."
            )
