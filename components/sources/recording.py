"""Looks at a dataset before it is streamed: its files, rows, layout and first samples."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from components.errors import ConfigurationError, InputError
from components.progress import Progress
from components.sources.config import DatasetSource
from components.sources.folder import SourceFolder
from components.sources.layouts.layout import Layout
from components.sources.layouts.registry import layout_of, recognise
from components.sources.reading import renamed, translated
from components.sources.recorded import RecordedDataset, RecordedFile
from components.sources.splits import CARD, SplitFiles, single_file, split_files
from components.sources.tables.registry import table_of
from components.sources.tables.table import BadRow, Row
from components.storage.config import TransferConfig

LOOKED_AT = 16
"""Rows by which a layout is recognised, and of which one at least must be a sample."""

_UNSAFE = re.compile(r"[^A-Za-z0-9]+")
_LONGEST_NAME = 40


@dataclass(frozen=True)
class Looked:
    """What a look at a dataset found.

    Attributes:
        dataset: What is recorded of it.
        folder: Its files.
        about: The layout in a line.
        columns: All columns that the first rows have.
    """

    dataset: RecordedDataset
    folder: SourceFolder
    about: str
    columns: tuple[str, ...]


def look_at(source: DatasetSource, setting: str, transfer: TransferConfig, progress: Progress) -> Looked:
    """Look at a dataset: find its split's files, count their rows, recognise the layout, and read the first rows.

    Args:
        source: The dataset.
        setting: The setting that names it, for errors.
        transfer: How patient reading is.
        progress: Told how many files were counted.

    Raises:
        InputError: The dataset is missing, forbidden or damaged, has no such configuration, split or column, is of no layout
            that is known, or none of its first rows is a sample.
        ConfigurationError: The URI or the environment can't work.
        StageError: The source can't be reached.
    """
    folder = SourceFolder(source.full_uri, setting, transfer)
    found = _split(source, folder)
    rows = _first_rows(folder, found.names, source.columns)
    if not rows:
        raise InputError(f"{folder.shown} ({setting}) has no rows in the split {found.split}.")
    layout, columns = _layout(source, rows, f"{folder.shown} ({setting})")
    files = _counted(folder, found.names, transfer, progress)
    _check_samples(layout, [renamed(row, source.mapping) for row in rows], f"{folder.shown} ({setting})")
    dataset = RecordedDataset(
        name=source.name or default_name(source),
        uri=folder.pinned,
        shown=folder.shown,
        config=found.config,
        split=found.split,
        layout=layout.name,
        columns=columns,
        mapping=source.mapping,
        turns=source.turns,
        weight=source.weight,
        cap=source.cap,
        sampling=source.sampling,
        filters=source.filters,
        files=files,
    )
    seen = tuple(dict.fromkeys(name for row in rows for name in row))
    print(
        f"{setting}: {folder.shown}: layout {layout.name} ({layout.about}), recognised from {', '.join(seen)}; "
        f"{dataset.rows:,} rows in {len(files):,} files",
        flush=True,
    )
    return Looked(dataset, folder, layout.about, seen)


def default_name(source: DatasetSource) -> str:
    """Return what a dataset is called that was given no name: the last part of its URI, and its configuration."""
    last = source.uri.rstrip("/").rpartition("/")[2].partition("@")[0]
    stem = last.rpartition(".")[0] or last
    text = f"{stem}-{source.config}" if source.config else stem
    return _UNSAFE.sub("-", text).strip("-")[:_LONGEST_NAME] or "dataset"


def check_names(datasets: Sequence[RecordedDataset], setting: str) -> None:
    """Refuse a mixture in which two datasets have one name.

    Raises:
        ConfigurationError: There are two.
    """
    names = [dataset.name for dataset in datasets]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{setting}: two datasets are called {name!r}. Give each a `name`.")


def _split(source: DatasetSource, folder: SourceFolder) -> SplitFiles:
    if folder.single:
        (name,) = folder.files
        return single_file(name, source.split)
    card = None
    if CARD in folder.files:
        with folder.open(CARD) as stream:
            card = stream.read()
    return split_files(list(folder.files), card, source.config, source.split, folder.shown)


def _first_rows(folder: SourceFolder, names: Sequence[str], columns: Sequence[str]) -> list[Row]:
    """Return the first rows that can be read."""
    rows: list[Row] = []
    for name in names:
        with translated(f"{folder.shown}: {name}"), folder.open(name) as stream:
            table = table_of(name)
            there = table.columns(stream)
            if there is not None and (missing := [column for column in columns if column not in there]):
                raise InputError(f"{folder.shown}: {name} has no column {missing[0]}; there are {', '.join(there)}.")
            for row in table.rows(stream, 0, columns or None):
                if not isinstance(row, BadRow):
                    rows.append({key: row[key] for key in row if not columns or key in columns})
                if len(rows) == LOOKED_AT:
                    return rows
    return rows


def _layout(source: DatasetSource, rows: Sequence[Row], shown: str) -> tuple[Layout, tuple[str, ...]]:
    """Return the layout, and the dataset's columns that are needed."""
    names = dict.fromkeys(name for row in rows for name in row)
    for name, path in source.mapping.items():
        if path not in names and path.partition(".")[0] not in names:
            raise InputError(f"{shown}: mapping.{name} is {path!r}; the columns are {', '.join(names)}.")
    for column in source.filters.scores:
        if column not in names:
            raise InputError(f"{shown}: filters.scores names {column!r}; the columns are {', '.join(names)}.")
    known = [renamed(row, source.mapping) for row in rows]
    layout, read = recognise(known, shown)
    if source.layout and source.layout != layout.name:
        layout = layout_of(source.layout)
        read = tuple(dict.fromkeys(name for row in known for name in row))
    needed = [*(_origin(name, names, source) for name in read), *source.filters.scores]
    return layout, tuple(dict.fromkeys(name for name in needed if name))


def _origin(name: str, names: Any, source: DatasetSource) -> str:
    """Return which column of the dataset is read for a column of the layout."""
    if name in source.mapping:
        path = source.mapping[name]
        return path if path in names else path.partition(".")[0]
    ways = (name, f"{name}_file_name", f"{name}_file_names", "file_name")
    return next((way for way in ways if way in names), "")


def _check_samples(layout: Layout, rows: Sequence[Row], shown: str) -> None:
    problems = []
    for row in rows:
        try:
            layout.samples(row)
            return
        except InputError as error:
            problems.append(str(error))
    raise InputError(
        f"{shown}: none of the first {len(rows)} rows is as the layout {layout.name} ({layout.about}) says: {problems[0]}."
    )


def _counted(
    folder: SourceFolder, names: Sequence[str], transfer: TransferConfig, progress: Progress
) -> tuple[RecordedFile, ...]:
    """Count the rows of all files, several at a time."""

    def count(name: str) -> RecordedFile:
        with translated(f"{folder.shown}: {name}"), folder.open(name) as stream:
            index = table_of(name).index(stream)
        facts = folder.files[name].facts
        return RecordedFile(name=name, size=facts.size, validator=facts.validator, rows=index.rows, marks=index.marks)

    progress.start("counting rows", len(names), "files")
    files = []
    with ThreadPoolExecutor(transfer.connections) as pool:
        for done, file in enumerate(pool.map(count, names), start=1):
            files.append(file)
            progress.update(done)
    return tuple(files)
