"""`file://`: files of this machine, or of a volume that is mounted here."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.errors import InputError
from components.storage.config import TransferConfig
from components.storage.remote import CHUNK_BYTES, FileFacts, Listing, RemoteFile, SourceChanged
from components.storage.uri import SourceUri


class LocalFile:
    """A file of this machine as a source; see `RemoteFile`."""

    sha256 = ""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.shown = path.as_uri()
        self.facts = _facts(path)

    def refresh(self) -> None:
        """Look at the file again."""
        self.facts = _facts(self.path)

    def read(self, start: int, end: int | None) -> Iterator[bytes]:
        """Yield the bytes of a range."""
        with open(self.path, "rb", buffering=0) as stream:
            stream.seek(start)
            left = (self.facts.size or 0) - start if end is None else end - start
            while left > 0:
                chunk = stream.read(min(CHUNK_BYTES, left))
                if not chunk:
                    raise SourceChanged("it has become shorter")
                left -= len(chunk)
                yield chunk


def list_local(uri: SourceUri, _config: TransferConfig, _known: Sequence[str] = ()) -> Listing:
    """List a file, or the files below a folder; hidden ones are left out.

    Raises:
        InputError: There is nothing of that name.
    """
    path = uri.path
    if path.is_file():
        return Listing(uri.shown, (LocalFile(path, path.name),))
    if not path.is_dir():
        raise InputError(f"{uri.shown} does not exist on this machine. Is its volume mounted here?")
    files: list[RemoteFile] = [LocalFile(path / name, name) for name, _ in walk_files(path)]
    return Listing(uri.shown, tuple(files))


def walk_files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield relative path and stat of every file below a folder in a fixed order, hidden ones left out."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                path = os.path.join(parent, name)
                yield os.path.relpath(path, folder), os.stat(path)


def _facts(path: Path) -> FileFacts:
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.") from error
    return FileFacts(found.st_size, f"mtime {found.st_mtime_ns}")
