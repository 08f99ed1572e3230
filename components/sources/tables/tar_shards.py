"""Tar shards, as img2dataset and WebDataset write them: files of the same name up to its first dot are one row."""

import itertools
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from components.sources.tables.table import BadRow, FileIndex, Mark, Row

KEY = "__key__"

_MARK_ROWS = 100
_TEXTS = ("txt", "text", "caption", "cls", "url")
_JSON = "json"


class TarShards:
    """A position is the byte offset of the header of a row's first file."""

    def index(self, stream: BinaryIO) -> FileIndex:
        """Count the rows; of the pictures nothing is read where the file lies here."""
        marks, rows = [], 0
        for _, members in _groups(stream, 0, with_content=False):
            if rows % _MARK_ROWS == 0:
                marks.append(Mark(rows, members[0].info.offset))
            rows += 1
        return FileIndex(rows, tuple(marks) or (Mark(0, 0),))

    def columns(self, stream: BinaryIO) -> list[str] | None:
        """Every row has its own."""
        return None

    def rows(self, stream: BinaryIO, position: int, columns: Sequence[str] | None) -> Iterator[Row | BadRow]:
        """Yield rows from one on: `__key__`, and a value for each extension."""
        for key, members in _groups(stream, position, with_content=True):
            row: Row | BadRow = {KEY: key}
            for member in members:
                if columns is not None and member.field not in columns:
                    continue
                try:
                    row[member.field] = _value(member.field, member.content)  # type: ignore[index]
                except ValueError as error:
                    row = BadRow(f"{member.info.name} can't be read: {error}")
                    break
            yield row


class _Member(NamedTuple):
    """A file of a tar."""

    info: tarfile.TarInfo
    field: str
    content: bytes


def _groups(stream: BinaryIO, position: int, with_content: bool) -> Iterator[tuple[str, list[_Member]]]:
    grouped = itertools.groupby(_members(stream, position, with_content), key=lambda pair: pair[0])
    return ((key, [member for _, member in pairs]) for key, pairs in grouped)


def _members(stream: BinaryIO, position: int, with_content: bool) -> Iterator[tuple[str, _Member]]:
    stream.seek(position)
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # it would remember all of them
            path = PurePosixPath(info.name)
            stem, dot, field = path.name.partition(".")
            if info.isfile() and stem and dot:
                file = archive.extractfile(info) if with_content else None
                yield (path.parent / stem).as_posix(), _Member(info, field.lower(), file.read() if file else b"")


def _value(field: str, content: bytes) -> Any:
    if field == _JSON:
        return json.loads(content)
    return content.decode() if field in _TEXTS else content
