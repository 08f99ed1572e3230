"""A file elsewhere as an open file: read at any place, with the same patience as a fetch, and never stored."""

import io
from typing import Any, BinaryIO

from components.errors import InputError
from components.storage.config import TransferConfig
from components.storage.faults import Faults
from components.storage.local_source import LocalFile
from components.storage.remote import PassingFault, RangesIgnored, RemoteFile, SourceChanged

READ_AHEAD_BYTES = 4 << 20


def open_source(file: RemoteFile, config: TransferConfig) -> BinaryIO:
    """Open a file of any scheme for reading.

    Args:
        file: The file.
        config: How patient reading is.

    Returns:
        A seekable binary file.

    Raises:
        InputError: Its server can't be asked for a part of it.
    """
    if isinstance(file, LocalFile):
        return open(file.path, "rb")
    if file.facts.size is None or not file.facts.ranges:
        raise InputError(
            f"{file.shown} can't be streamed: its server does not answer requests for a part of a file. Fetch it, and name "
            "the local copy."
        )
    return io.BufferedReader(_Ranges(file, config, file.facts.size), READ_AHEAD_BYTES)


class _Ranges(io.RawIOBase):
    """Reads a remote file range by range; a cut connection goes on from the byte reached."""

    def __init__(self, file: RemoteFile, config: TransferConfig, size: int) -> None:
        self._file, self._config, self._size = file, config, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._size - self._position)
        received = 0
        faults = Faults(self._file.shown, self._config)
        while received < wanted:
            start = self._position + received
            try:
                for chunk in self._file.read(start, self._position + wanted):
                    view[received : received + len(chunk)] = chunk
                    received += len(chunk)
                    faults.forget()
            except PassingFault as fault:
                faults.met(fault)
            except (SourceChanged, RangesIgnored) as error:
                raise InputError(
                    f"{self._file.shown} changed while it was read ({error}). Run the download again."
                ) from None
        self._position += max(wanted, 0)
        return max(wanted, 0)
