"""JSON: one list of objects, as LLaVA's annotations are, or objects one after the other."""

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from components.data.json_list import read_json_list
from components.errors import InputError
from components.sources.tables.json_lines import JsonLines, object_row
from components.sources.tables.table import BadRow, FileIndex, Mark, Row

_MARK_ROWS = 500
_LOOKED_AT_BYTES = 64


class JsonList:
    """A position is a byte offset, 0 for the first entry."""

    def index(self, stream: BinaryIO) -> FileIndex:
        """Count the entries."""
        if not _is_list(stream):
            return JsonLines().index(stream)
        marks, rows = [Mark(0, 0)], 0
        for offset, _ in _entries(stream, 0):
            if rows and rows % _MARK_ROWS == 0:
                marks.append(Mark(rows, offset))
            rows += 1
        return FileIndex(rows, tuple(marks))

    def columns(self, stream: BinaryIO) -> list[str] | None:
        """Every entry has its own."""
        return None

    def rows(self, stream: BinaryIO, position: int, columns: Sequence[str] | None) -> Iterator[Row | BadRow]:
        """Yield entries from one on."""
        if not _is_list(stream):
            yield from JsonLines().rows(stream, position, columns)
        else:
            for _, entry in _entries(stream, position):
                yield object_row(entry)


def _entries(stream: BinaryIO, position: int) -> Iterator[tuple[int, Any]]:
    try:
        yield from read_json_list(stream, "the file", position)
    except InputError as error:
        raise ValueError(str(error)) from error  # who reads tables says which file it is


def _is_list(stream: BinaryIO) -> bool:
    stream.seek(0)
    start = stream.read(_LOOKED_AT_BYTES)
    stream.seek(0)
    return start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
