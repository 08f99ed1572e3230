"""Reads rows of recorded datasets, from any row on, and makes samples of them."""

import bisect
import csv
import itertools
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from components.errors import InputError, StageError
from components.sources.config import Turns
from components.sources.folder import SourceFolder
from components.sources.layouts.registry import layout_of
from components.sources.recorded import RecordedDataset, RecordedFile, RowPlace, place_of
from components.sources.sample import Sample
from components.sources.tables.registry import table_of
from components.sources.tables.table import BadRow, Row

_READING_ERRORS = (OSError, ValueError, EOFError, tarfile.TarError, csv.Error, zlib.error)
"""What the formats' libraries raise for damaged files; pyarrow's errors are among them."""

_FILE_NAME = ("_file_names", "_file_name")
_IMAGE, _PLAIN_FILE_NAME = "image", "file_name"


def read_rows(
    dataset: RecordedDataset, folder: SourceFolder, first: int, last: int
) -> Iterator[tuple[str, Row | BadRow]]:
    """Yield rows with the names of their files.

    Args:
        dataset: The dataset.
        folder: Its files.
        first: Number of the first row, of those that are taken.
        last: Number of the row after the last one.

    Raises:
        InputError: A file is another than when it was recorded, or is damaged.
    """
    reader = _Reader(dataset, folder)
    for number in range(first, last):
        place = place_of(dataset, dataset.row(number))
        yield dataset.files[place.file].name, reader.row(place)


def row_samples(dataset: RecordedDataset, row: Row | BadRow) -> list[Sample]:
    """Return the samples of a row.

    Raises:
        InputError: The row can't be read, or is not as its layout says.
    """
    if isinstance(row, BadRow):
        raise InputError(row.detail)
    samples = layout_of(dataset.layout).samples(renamed(row, dataset.mapping))
    return [_shortened(sample, dataset.turns) for sample in samples]


def renamed(row: Mapping[str, Any], mapping: Mapping[str, str]) -> Row:
    """Return a row whose columns are called as layouts call them.

    Args:
        row: The row.
        mapping: What a layout calls a column, to what the dataset calls it; `a.b` is b within a.

    Returns:
        The row with the renamed columns beside its own. As `datasets` has it for folders of pictures, `file_name` is the
        path of `image`, and `X_file_name` or `X_file_names` that of X.
    """
    result = dict(row)
    for name, value in row.items():
        if name == _PLAIN_FILE_NAME:
            result.setdefault(_IMAGE, value)
        for end in _FILE_NAME:
            if name.endswith(end):
                result.setdefault(name.removesuffix(end), value)
    for name, path in mapping.items():
        result[name] = value_at(row, path)
    return result


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """Return what a row has behind a column's name, or behind `a.b`; None if it has nothing there."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _shortened(sample: Sample, turns: Turns) -> Sample:
    """Return the sample with as many turns as are wanted.

    Raises:
        InputError: A picture belongs to a turn that is not.
    """
    if turns == "all":
        return sample
    first = 1 if sample.conversation[0]["from"] == "system" else 0
    kept = sample.conversation[: first + 2]
    if sum(turn["value"].count("<image>") for turn in kept if turn["from"] == "human") != len(sample.pictures):
        raise InputError("a picture stands in a later turn, and `turns` takes the first alone")
    return Sample(sample.pictures, kept)


class _Reader:
    """Reads on where the row before ended, or jumps to the mark before a row that is further on."""

    def __init__(self, dataset: RecordedDataset, folder: SourceFolder) -> None:
        self._dataset, self._folder = dataset, folder
        self._rows: Iterator[Row | BadRow] = iter(())
        self._next: RowPlace | None = None

    def row(self, place: RowPlace) -> Row | BadRow:
        file = self._dataset.files[place.file]
        with translated(f"{self._folder.shown}: {file.name}"):
            mark = file.marks[bisect.bisect_right(file.marks, place.row, key=lambda mark: mark.row) - 1]
            reached = self._next
            if reached is None or reached.file != place.file or not mark.row <= reached.row <= place.row:
                self._open(file, mark.position)
                reached = RowPlace(place.file, mark.row)
            row = next(itertools.islice(self._rows, place.row - reached.row, None), None)
        if row is None:
            raise InputError(f"{self._folder.shown}: {file.name} ends before row {place.row}. Run the download again.")
        self._next = RowPlace(place.file, place.row + 1)
        return row

    def _open(self, file: RecordedFile, position: int) -> None:
        stream = self._folder.open(file.name)
        facts = self._folder.files[file.name].facts
        if (facts.size, facts.validator) != (file.size, file.validator):
            raise InputError(
                f"{self._folder.shown}: {file.name} is another file than the download saw. Run the download again."
            )
        self._rows = table_of(file.name).rows(stream, position, self._dataset.columns or None)


@contextmanager
def translated(shown: str) -> Iterator[None]:
    """Raise what a format's library raises as ours.

    Raises:
        InputError: The file is damaged.
    """
    try:
        yield
    except (InputError, StageError):
        raise
    except _READING_ERRORS as error:
        raise InputError(
            f"{shown} can't be read: {error}. Compare its size with the source's; it may be cut off."
        ) from error
