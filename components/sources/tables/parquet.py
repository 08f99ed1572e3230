"""Parquet: counted by its footer, read row group by row group, and of a row group only some rows at a time."""

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from components.sources.tables.table import BadRow, FileIndex, Mark, Row

_BATCH_ROWS = 32  # of pictures of a megabyte: what is in memory at a time
_BUFFER_BYTES = 1 << 20


class Parquet:
    """A position is the number of a row group."""

    def index(self, stream: BinaryIO) -> FileIndex:
        """Count the rows."""
        metadata = _open(stream).metadata
        marks, row = [], 0
        for group in range(metadata.num_row_groups):
            marks.append(Mark(row, group))
            row += metadata.row_group(group).num_rows
        return FileIndex(row, tuple(marks))

    def columns(self, stream: BinaryIO) -> list[str] | None:
        """Return the names of the columns."""
        return list(_open(stream).schema_arrow.names)

    def rows(self, stream: BinaryIO, position: int, columns: Sequence[str] | None) -> Iterator[Row | BadRow]:
        """Yield rows from a row group on."""
        file = _open(stream)
        kept = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
        for group in range(position, file.metadata.num_row_groups):
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=kept, use_threads=False):
                yield from batch.to_pylist()


def _open(stream: BinaryIO) -> Any:
    from pyarrow.parquet import ParquetFile  # slow to import

    # Buffered: without it a row group's column, of gigabytes maybe, is read as a whole.
    return ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
