"""CSV and TSV with a line of column names; quoted cells may hold line breaks, and lists and objects as JSON."""

import csv
import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from components.sources.tables.table import BadRow, FileIndex, Mark, Row

_MARK_ROWS = 500
_LONGEST_CELL = 1 << 28  # a picture in base64 is a cell


class Delimited:
    """A position is the byte offset where a row begins, 0 for the first one.

    Args:
        delimiter: What stands between cells.
    """

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter

    def index(self, stream: BinaryIO) -> FileIndex:
        """Count the rows."""
        lines = _Lines(stream, 0)
        cells = self._cells(lines)
        next(cells, None)
        marks, rows = [Mark(0, 0)], 0
        while True:
            offset = lines.offset
            row = next(cells, None)
            if row is None:
                return FileIndex(rows, tuple(marks))
            if row:
                if rows and rows % _MARK_ROWS == 0:
                    marks.append(Mark(rows, offset))
                rows += 1

    def columns(self, stream: BinaryIO) -> list[str] | None:
        """Return the names of the columns."""
        return next(self._cells(_Lines(stream, 0)), [])

    def rows(self, stream: BinaryIO, position: int, columns: Sequence[str] | None) -> Iterator[Row | BadRow]:
        """Yield rows from one on."""
        names = self.columns(stream) or []
        rows = self._cells(_Lines(stream, position))
        if position == 0:
            next(rows, None)
        for cells in rows:
            if len(cells) == len(names):
                yield {name: _value(cell) for name, cell in zip(names, cells, strict=True)}
            elif cells:
                yield BadRow(f"the row has {len(cells)} cells, the first line names {len(names)} columns")

    def _cells(self, lines: Iterator[str]) -> Iterator[list[str]]:
        csv.field_size_limit(_LONGEST_CELL)
        return csv.reader(lines, delimiter=self._delimiter, strict=True)


class _Lines:
    """Lines of a file as text; the offset is that of the byte after the last one."""

    def __init__(self, stream: BinaryIO, offset: int) -> None:
        stream.seek(offset)
        self._stream = stream
        self.offset = offset

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._stream.readline()
        if not line:
            raise StopIteration
        text = line.decode("utf-8-sig" if self.offset == 0 else "utf-8")
        self.offset += len(line)
        return text


def _value(cell: str) -> Any:
    if not cell.startswith(("[", "{")):
        return cell
    try:
        return json.loads(cell)
    except ValueError:
        return cell  # a text that begins with a bracket
