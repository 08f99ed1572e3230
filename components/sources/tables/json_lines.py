"""JSON lines: an object per line."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from components.sources.tables.table import BadRow, FileIndex, Mark, Row

_MARK_ROWS = 500
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonLines:
    """A position is a byte offset."""

    def index(self, stream: BinaryIO) -> FileIndex:
        """Count the lines that are not blank."""
        marks, rows, offset = [Mark(0, 0)], 0, 0
        for line in stream:
            if line.strip():
                if rows and rows % _MARK_ROWS == 0:
                    marks.append(Mark(rows, offset))
                rows += 1
            offset += len(line)
        return FileIndex(rows, tuple(marks))

    def columns(self, stream: BinaryIO) -> list[str] | None:
        """Every line has its own."""
        return None

    def rows(self, stream: BinaryIO, position: int, columns: Sequence[str] | None) -> Iterator[Row | BadRow]:
        """Yield rows from a line on."""
        stream.seek(position)
        for line in stream:
            if line.strip():
                yield _row(line)


def _row(line: bytes) -> Row | BadRow:
    try:
        return object_row(json.loads(line.removeprefix(_BYTE_ORDER_MARK)))
    except (ValueError, RecursionError) as error:
        return BadRow(f"the line is not JSON: {error}")


def object_row(value: Any) -> Row | BadRow:
    """Return a JSON object as a row."""
    return value if isinstance(value, dict) else BadRow(f"the row is a {type(value).__name__}, not an object")
