"""Gets what a source setting names: a stage folder of its own for what is elsewhere, the files in place for `file://`."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.context import RunContext
from components.errors import InputError, StageError
from components.files import FileEntry
from components.progress import Progress
from components.stage.manifest import MANIFEST_NAME, Manifest, read_manifest
from components.stage.runner import StageWork, run_stage
from components.storage.checksum import sha256_file
from components.storage.config import TransferConfig
from components.storage.listing import list_source, listing_identity
from components.storage.lock import Lock, LockedSource, check_entry, check_names
from components.storage.partial import PART_SUFFIX
from components.storage.remote import RemoteFile
from components.storage.transfer import fetch_files
from components.storage.uri import SourceUri, read_uri

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
            InputError: The URI names a folder.
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


@dataclass(frozen=True)
class Wanted:
    """A source that a stage needs.

    Attributes:
        setting: The setting that names it.
        uri: Its URI as in the settings.
        choose: Picks the files that are needed; None for all.
    """

    setting: str
    uri: str
    choose: Choice | None = None


def fetch_sources(
    context: RunContext, wanted: Sequence[Wanted], transfer: TransferConfig, lock: Lock | None, generated: Sequence[str]
) -> dict[str, Fetched]:
    """List sources, check that all of them fit on the disk, and fetch those that were not fetched before.

    Args:
        context: The pipeline run.
        wanted: The sources.
        transfer: How to fetch.
        lock: What the files must be.
        generated: What else these settings may be, for errors.

    Returns:
        Setting to source.

    Raises:
        InputError: A source is missing, forbidden or damaged, or not what the lock says.
        ConfigurationError: A URI or the environment can't work.
        StageError: A source can't be reached, or the disk is too small.
    """
    listed = [_list(source, transfer, lock, generated) for source in wanted]
    _check_disk(context.workspace / STAGE, listed)
    return {source.setting: _fetch(context, source, transfer) for source in listed}


@dataclass(frozen=True)
class _Listed:
    """A source whose needed files are known."""

    setting: str
    uri: SourceUri
    files: tuple[RemoteFile, ...]
    is_folder: bool
    identity: str

    @property
    def size(self) -> int:
        """Bytes to fetch, as far as servers tell."""
        return 0 if self.uri.scheme == "file" else sum(file.facts.size or 0 for file in self.files)


def _list(wanted: Wanted, transfer: TransferConfig, lock: Lock | None, generated: Sequence[str]) -> _Listed:
    setting = wanted.setting
    uri = read_uri(wanted.uri, setting, generated)
    expected = lock.files(setting) if lock is not None else {}
    listing = list_source(uri, transfer, known=sorted(expected))
    names = [file.name for file in listing.files]
    chosen = set(wanted.choose(names, uri.shown) if wanted.choose is not None else names)
    files = tuple(file for file in listing.files if file.name in chosen)
    if lock is not None and uri.scheme != "file":
        check_names(setting, uri.shown, [file.name for file in files], expected)
        for file in files:
            if file.facts.size not in (None, expected[file.name].size):
                raise InputError(
                    f"{file.shown} ({setting}) has {file.facts.size} bytes, its lock file says {expected[file.name].size}."
                )
            file.sha256 = expected[file.name].sha256
    is_folder = uri.path.is_dir() if uri.scheme == "file" else names != [uri.name]
    return _Listed(setting, uri, files, is_folder, listing_identity(files))


def _check_disk(folder: Path, listed: Sequence[_Listed]) -> None:
    """Refuse to begin what can't end: the sources of a run may be a hundred gigabytes together."""
    finished = {read_manifest(path.parent).inputs.get("content") for path in folder.glob(f"*/{MANIFEST_NAME}")}
    # Two settings may name one source, which is fetched once.
    needed = sum({source.identity: source.size for source in listed if source.identity not in finished}.values())
    if not needed:
        return
    folder.mkdir(parents=True, exist_ok=True)
    begun = sum(path.stat().st_blocks * 512 for path in folder.glob(f"*/**/*{PART_SUFFIX}"))
    free = shutil.disk_usage(folder).free + begun
    if needed > free:
        raise StageError(
            f"{folder} has {free / 1e9:,.1f} GB free, the sources have {needed / 1e9:,.1f} GB. Free some space, or use another "
            "workspace."
        )


def _fetch(context: RunContext, source: _Listed, transfer: TransferConfig) -> Fetched:
    uri, names = source.uri, tuple(file.name for file in source.files)
    if uri.scheme == "file":
        folder = uri.path if source.is_folder else uri.path.parent
        identity = f"{uri.shown}#{source.identity}"
        return Fetched(source.setting, uri.shown, folder, names, source.is_folder, identity, None)

    def body(work: StageWork) -> dict[str, Any]:
        fetch_files(source.files, work.folder, transfer, work.progress)
        return {"files": len(names), "bytes": sum((work.folder / name).stat().st_size for name in names)}

    output = run_stage(
        context.model_copy(update={"tracking_uri": "", "mlflow_run_id": ""}),  # tracked as part of what needs it
        stage=STAGE,
        version=VERSION,
        inputs={"source": uri.shown, "content": source.identity},
        settings=_NoSettings(),
        body=body,
    )
    return Fetched(source.setting, uri.shown, output.folder, names, source.is_folder, output.folder, output.manifest)
