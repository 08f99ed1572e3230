"""What every format gives: the rows of a file, from any marked place."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, Protocol

Row = dict[str, Any]
"""Column to value, as JSON has it; pictures are bytes, or an object with `bytes` and `path`."""


class Mark(NamedTuple):
    """A place where reading can begin: the number of the row there, and where in the file it is, as the format counts."""

    row: int
    position: int


@dataclass(frozen=True)
class BadRow:
    """A row that can't be read, and why; those after it can."""

    detail: str


@dataclass(frozen=True)
class FileIndex:
    """The number of a file's rows, and places where reading can begin; the first is that of row 0."""

    rows: int
    marks: tuple[Mark, ...]


class Table(Protocol):
    """A format. Errors of its libraries pass through: `components.sources.reading` says which file it was."""

    def index(self, stream: BinaryIO) -> FileIndex:
        """Count the rows, reading as little as the format allows."""

    def columns(self, stream: BinaryIO) -> list[str] | None:
        """Return the names of the columns; None where only the rows tell."""

    def rows(self, stream: BinaryIO, position: int, columns: Sequence[str] | None) -> Iterator[Row | BadRow]:
        """Yield rows, holding few in memory.

        Args:
            stream: The file.
            position: Where to begin: that of a mark; 0 is the first row's.
            columns: Those that are needed; None for all. Others may come as well.
        """
