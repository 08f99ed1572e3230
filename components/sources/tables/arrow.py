"""Arrow IPC, as `datasets` saves to disk: streams and files of record batches."""

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from components.sources.tables.table import BadRow, FileIndex, Mark, Row

_FILE_SIGNATURE = b"ARROW1"
_BATCH_ROWS = 32


class Arrow:
    """A position is the number of a record batch."""

    def index(self, stream: BinaryIO) -> FileIndex:
        """Count the rows; of a stream, every batch is read for that."""
        marks, row = [], 0
        for number, batch in enumerate(_batches(stream, 0)):
            marks.append(Mark(row, number))
            row += batch.num_rows
        return FileIndex(row, tuple(marks))

    def columns(self, stream: BinaryIO) -> list[str] | None:
        """Return the names of the columns."""
        from pyarrow import ipc

        schema = (ipc.open_file(stream) if _is_file(stream) else ipc.open_stream(stream)).schema
        return list(schema.names)

    def rows(self, stream: BinaryIO, position: int, columns: Sequence[str] | None) -> Iterator[Row | BadRow]:
        """Yield rows from a record batch on."""
        for batch in _batches(stream, position):
            kept = batch if columns is None else batch.select([name for name in batch.schema.names if name in columns])
            for start in range(0, kept.num_rows, _BATCH_ROWS):
                yield from kept.slice(start, _BATCH_ROWS).to_pylist()


def _batches(stream: BinaryIO, first: int) -> Iterator[Any]:
    from pyarrow import ipc  # slow to import

    if _is_file(stream):
        file = ipc.open_file(stream)
        yield from (file.get_batch(number) for number in range(first, file.num_record_batches))
    else:
        yield from (batch for number, batch in enumerate(ipc.open_stream(stream)) if number >= first)


def _is_file(stream: BinaryIO) -> bool:
    stream.seek(0)
    start = stream.read(len(_FILE_SIGNATURE))
    stream.seek(0)
    return start == _FILE_SIGNATURE
