"""Gets what a source setting names: a stage folder of its own for what is elsewhere, the files in place for `file://`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.errors import InputError
from components.stage.context import RunContext
from components.stage.manifest import FileEntry, Manifest
from components.stage.progress import Progress
from components.stage.runner import StageWork, run_stage
from components.storage.checksum import sha256_file
from components.storage.config import TransferConfig
from components.storage.listing import list_source, listing_identity
from components.storage.lock import Lock, LockedSource, check_entry, check_names
from components.storage.transfer import fetch_files
from components.storage.uri import read_uri

STAGE = "download/source"
VERSION = 1

Choice = Callable[[Sequence[str], str], Sequence[str]]
"""Picks the needed ones of a source's file names; gets the source's shown URI for errors."""


class _NoSettings(BaseModel):
    """What is fetched depends on the source alone."""


@dataclass(frozen=True)
class Fetched:
    """A source whose files are on this machine.

    Attributes:
        setting: The setting that names it.
        shown: Its URI without secrets.
        folder: Where its files are.
        names: Its files, relative to the folder.
        is_folder: Whether the URI names a folder.
        identity: What the stage that uses it takes as an input: a stage folder, or a string for files used in place.
        manifest: Sizes and checksums of what was fetched; None for files used in place.
    """

    setting: str
    shown: str
    folder: Path
    names: tuple[str, ...]
    is_folder: bool
    identity: Path | str
    manifest: Manifest | None

    @property
    def paths(self) -> list[Path]:
        """Every file."""
        return [self.folder / name for name in self.names]

    @property
    def file(self) -> Path:
        """The only file.

        Raises:
            InputError: There are several.
        """
        if self.is_folder:
            raise InputError(f"{self.setting} names {self.shown}, which is a folder: name one file.")
        return self.folder / self.names[0]

    def check(self, lock: Lock | None, progress: Progress) -> None:
        """Compare every file with the lock; files used in place are read for that.

        Raises:
            InputError: A file is missing, unknown or another.
        """
        if lock is None:
            return
        expected = lock.files(self.setting)
        check_names(self.setting, self.shown, self.names, expected)
        progress.start("checking files", len(self.names), "files")
        for done, name in enumerate(self.names, start=1):
            check_entry(self.setting, self.shown, name, self._entry(name), expected[name])
            progress.update(done)

    def _entry(self, name: str) -> FileEntry:
        if self.manifest is not None:
            return self.manifest.files[name]
        path = self.folder / name
        return FileEntry(size=path.stat().st_size, sha256=sha256_file(path))

    def locked(self) -> LockedSource | None:
        """Return what a lock file says of this source; None for files used in place."""
        return LockedSource(uri=self.shown, files=self.manifest.files) if self.manifest is not None else None


def fetch_source(
    context: RunContext,
    text: str,
    setting: str,
    transfer: TransferConfig,
    lock: Lock | None = None,
    choose: Choice | None = None,
    generated: Sequence[str] = (),
) -> Fetched:
    """List a source and fetch its files, unless that was done before.

    Args:
        context: The pipeline run.
        text: The source's URI as in the settings.
        setting: Name of the setting.
        transfer: How to fetch.
        lock: What the files must be.
        choose: Picks the files that are needed; None for all.
        generated: What else the setting may be, for errors.

    Raises:
        InputError: The source is missing, forbidden or damaged, or not what the lock says.
        ConfigurationError: The URI or the environment can't work.
        StageError: The source can't be reached, or the disk is too small.
    """
    uri = read_uri(text, setting, generated)
    expected = lock.files(setting) if lock is not None else {}
    listing = list_source(uri, transfer, known=sorted(expected))
    names = [file.name for file in listing.files]
    chosen = set(choose(names, uri.shown) if choose is not None else names)
    files = [file for file in listing.files if file.name in chosen]
    kept = tuple(file.name for file in files)
    identity = listing_identity(files)
    is_folder = uri.path.is_dir() if uri.scheme == "file" else names != [uri.name]
    if uri.scheme == "file":
        folder = uri.path if is_folder else uri.path.parent
        return Fetched(setting, uri.shown, folder, kept, is_folder, f"{uri.shown}#{identity}", None)
    if lock is not None:
        check_names(setting, uri.shown, kept, expected)
        for file in files:
            if file.facts.size not in (None, expected[file.name].size):
                raise InputError(
                    f"{file.shown} ({setting}) has {file.facts.size} bytes, its lock file says {expected[file.name].size}."
                )
            file.sha256 = expected[file.name].sha256

    def body(work: StageWork) -> dict[str, Any]:
        fetch_files(files, work.folder, transfer, work.progress)
        return {"files": len(files), "bytes": sum((work.folder / name).stat().st_size for name in kept)}

    output = run_stage(
        context.model_copy(update={"tracking_uri": "", "mlflow_run_id": ""}),  # tracked as part of what needs it
        stage=STAGE,
        version=VERSION,
        inputs={"source": uri.shown, "content": identity},
        settings=_NoSettings(),
        body=body,
    )
    return Fetched(setting, uri.shown, output.folder, kept, is_folder, output.folder, output.manifest)
