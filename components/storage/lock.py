"""Lock files: which bytes a source must have, by the setting that names it.

A lock knows sources by their settings (`data.pretrain.annotations`) and not by their URIs, so that the lock of a download
from the internet also checks the copy in an air-gapped cluster.
"""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import InputError
from components.files import FileEntry
from components.progress import Progress
from components.storage.atomic import write_text
from components.storage.config import TransferConfig
from components.storage.listing import list_source
from components.storage.transfer import fetch_files
from components.storage.uri import read_uri

LOCK_NAME = "sources.lock.json"


class LockedSource(BaseModel):
    """The files of one source: where they came from when the lock was written, name to size and SHA-256."""

    model_config = ConfigDict(extra="forbid")

    uri: str
    files: dict[str, FileEntry]


class Lock(BaseModel):
    """A lock file: setting to its source."""

    model_config = ConfigDict(extra="forbid")

    sources: dict[str, LockedSource]

    def files(self, setting: str) -> Mapping[str, FileEntry]:
        """Return the files that a setting's source must have.

        Raises:
            InputError: The lock does not know the setting.
        """
        if setting not in self.sources:
            known = ", ".join(self.sources) or "nothing"
            raise InputError(
                f"The lock file does not know {setting}; it locks {known}. Write it again from a first download."
            )
        return self.sources[setting].files


def read_lock(text: str, setting: str, config: TransferConfig) -> Lock | None:
    """Fetch and read a lock file.

    Args:
        text: Its URI; empty for none.
        setting: Name of the setting, for errors.
        config: How to fetch it.

    Raises:
        InputError: It is missing, or not a lock file.
    """
    if not text:
        return None
    uri = read_uri(text, setting)
    listing = list_source(uri, config)
    with tempfile.TemporaryDirectory() as folder:
        fetch_files(listing.files, Path(folder), config, Progress("lock file"))
        try:
            return Lock.model_validate_json((Path(folder) / listing.files[0].name).read_bytes())
        except (ValidationError, OSError) as error:
            raise InputError(
                f"{setting} names {uri.shown}, which is not a lock file ({error}). A download leaves one: {LOCK_NAME}."
            ) from None


def write_lock(path: Path, sources: Mapping[str, LockedSource]) -> None:
    """Write a lock file."""
    write_text(path, Lock(sources=dict(sources)).model_dump_json(indent=2) + "\n")


def check_names(setting: str, shown: str, found: Iterable[str], expected: Iterable[str]) -> None:
    """Compare the files of a source with those that its lock lists.

    Raises:
        InputError: A file is missing, or is there that the lock does not know.
    """
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unknown:
        said = [f"lacks {name}" for name in missing[:1]] + [f"has {name}" for name in unknown[:1]]
        raise InputError(f"{shown} ({setting}) {' and '.join(said)}, other than its lock file says.")


def check_entry(setting: str, shown: str, name: str, found: FileEntry, expected: FileEntry) -> None:
    """Compare one file with its lock.

    Raises:
        InputError: Size or checksum differ.
    """
    if (found.size, found.sha256) != (expected.size, expected.sha256.lower()):
        raise InputError(
            f"{name} of {shown} ({setting}) has {found.size} bytes and SHA-256 {found.sha256}, its lock file says "
            f"{expected.size} bytes and {expected.sha256}. Is it complete, and the right version?"
        )
