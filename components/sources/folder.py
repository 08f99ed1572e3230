"""The files behind a dataset's URI, opened one at a time and never stored."""

import os
import posixpath
import zipfile
from collections.abc import Sequence
from functools import cached_property
from typing import BinaryIO

from components.data.names import canonical_name
from components.errors import InputError
from components.storage.config import TransferConfig
from components.storage.listing import list_source
from components.storage.local_source import LocalFile
from components.storage.remote import Listing, RemoteFile
from components.storage.seekable import open_source
from components.storage.uri import read_uri

_ZIP = ".zip"
_PICTURES_FOLDER = "images"


class SourceFolder:
    """A folder, or a single file, of any scheme.

    Args:
        uri: Its URI as in the settings.
        setting: The setting that names it, for errors.
        transfer: How patient reading is.
        names: The files that are needed: a folder of this machine, with a million pictures maybe, is not listed then.

    Attributes:
        shown: The URI without secrets.
        pinned: A URI that always leads to the same files, where there is one; else that of the settings.
        single: Whether the URI names a file.
        files: The files by their names.

    Raises:
        InputError: There is nothing of that name, or access is refused.
        ConfigurationError: The URI or the environment can't work.
        StageError: The server could not be reached.
    """

    def __init__(self, uri: str, setting: str, transfer: TransferConfig, names: Sequence[str] = ()) -> None:
        read = read_uri(uri, setting)
        if names and read.scheme == "file" and read.path.is_dir():
            listing = Listing(read.shown, tuple(LocalFile(read.path / name, name) for name in names))
        else:
            listing = list_source(read, transfer)
        self._uri, self._setting, self._transfer = uri, setting, transfer
        self.shown = listing.pinned or listing.shown
        self.pinned = listing.pinned or uri
        self.files: dict[str, RemoteFile] = {file.name: file for file in listing.files}
        is_folder = read.path.is_dir() if read.scheme == "file" else list(self.files) != [read.name]
        self.single = not is_folder
        self._local = (read.path if is_folder else read.path.parent) if read.scheme == "file" else None

    def open(self, name: str) -> BinaryIO:
        """Open a file.

        Raises:
            InputError: There is none of that name.
        """
        if name not in self.files:
            raise InputError(f"{self.shown} has no file {name}. Run the download again.")
        return open_source(self.files[name], self._transfer)

    def read_beside(self, name: str, path: str) -> bytes | None:
        """Return the content of the file that a row of file `name` means by a path, or None if there is none.

        The path counts from the row's file, from the folder, or from the folder `images`; and it may lie in a zip of the folder.
        """
        path = canonical_name(path)
        beside = posixpath.join(posixpath.dirname(name), path)
        candidates = [posixpath.normpath(way) for way in (beside, path, posixpath.join(_PICTURES_FOLDER, path))]
        for candidate in candidates:
            if candidate.startswith(("/", "..")):
                continue
            file = self._file(candidate)
            if file is not None:
                with open_source(file, self._transfer) as stream:
                    return stream.read()
        short = [*candidates, posixpath.normpath(path).removeprefix(f"{_PICTURES_FOLDER}/")]
        return next(
            (archive.read(member) for archive, names in self._zips for member in short if member in names), None
        )

    def _file(self, path: str) -> RemoteFile | None:
        if self._local is None:
            return self._siblings.get(path)
        # A file's folder may hold anything: it is not listed for the sake of a few pictures.
        real, root = os.path.realpath(self._local / path), os.path.realpath(self._local)
        inside = os.path.commonpath((real, root)) == root
        return LocalFile(self._local / path, path) if inside and os.path.isfile(real) else None

    @cached_property
    def _siblings(self) -> dict[str, RemoteFile]:
        """The files of the folder that a single file lies in."""
        if not self.single:
            return self.files
        return SourceFolder(self._uri.rpartition("/")[0] + "/", self._setting, self._transfer).files

    @cached_property
    def _zips(self) -> list[tuple[zipfile.ZipFile, set[str]]]:
        if self._local is not None:
            files: list[RemoteFile] = [LocalFile(path, path.name) for path in sorted(self._local.glob(f"*{_ZIP}"))]
        else:
            files = [file for name, file in self._siblings.items() if name.lower().endswith(_ZIP)]
        opened = []
        for file in files:
            try:
                archive = zipfile.ZipFile(open_source(file, self._transfer))
            except (zipfile.BadZipFile, NotImplementedError) as error:
                raise InputError(f"{file.shown} is not a readable zip: {error}.") from error
            opened.append((archive, set(archive.namelist())))
        return opened
