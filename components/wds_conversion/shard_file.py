"""One shard: written by webdataset, and read back by it before it gets its name.

Whoever imports this waits for webdataset, which imports PyTorch.
"""

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from webdataset import TarWriter
from webdataset.tariterators import group_by_keys, tar_file_expander

from components.errors import StageError


class ShardFile:
    """Writes a tar that depends on its samples alone: owner 0 without a name, mode 0644, modification time 0.

    Args:
        stream: Where the bytes go.

    Attributes:
        samples: Samples so far.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.samples = 0
        self._written = _Content()
        self._stream = _HashedStream(stream)
        self._tar = TarWriter(self._stream, user="", group="", mode=0o644, mtime=0, encoder=False)

    def write(self, key: str, fields: Sequence[tuple[str, bytes]]) -> None:
        """Write a sample."""
        sample: dict[str, str | bytes] = {"__key__": key, **dict(fields)}
        self._tar.write(sample)
        self._written = _with(self._written, sample)
        self.samples += 1

    def finish(self) -> tuple[int, str]:
        """End the tar; return its size in bytes and its SHA-256."""
        self._tar.close()
        return self._stream.size, self._stream.digest.hexdigest()

    def verify(self, path: Path) -> None:
        """Read the shard back and compare it with what was written.

        Args:
            path: The file that the stream has written; all of it must have left the stream.

        Raises:
            StageError: It can't be read, or other samples come back.
        """
        try:
            with open(path, "rb") as stream:
                found = _content(group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])))
        except Exception as error:  # tarfile and webdataset raise many kinds
            raise StageError(f"{path} can't be read back: {error!r}. Are disk and memory sound?") from error
        if found != self._written:
            raise StageError(
                f"{path} reads back other than it was written: {found.samples} samples with CRC {found.crc:08x}, written "
                f"were {self._written.samples} with {self._written.crc:08x}. Are disk and memory sound?"
            )


class _Content(NamedTuple):
    """Samples, and the CRC-32 over their keys, field names, lengths and bytes."""

    samples: int = 0
    crc: int = 0


def _content(samples: Iterable[Mapping[str, str | bytes]]) -> _Content:
    content = _Content()
    for sample in samples:
        content = _with(content, sample)
    return content


def _with(content: _Content, sample: Mapping[str, str | bytes]) -> _Content:
    crc = zlib.crc32(str(sample["__key__"]).encode(), content.crc)
    for name, value in sorted(sample.items()):
        if isinstance(value, bytes):
            crc = zlib.crc32(value, zlib.crc32(f" {name} {len(value)} ".encode(), crc))
    return _Content(content.samples + 1, crc)


class _HashedStream:
    """Passes on what is written, and counts and hashes it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self._stream = stream

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        self.size += len(content)
        return self._stream.write(content)
