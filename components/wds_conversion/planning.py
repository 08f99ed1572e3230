"""Which rows go into which shard: as evenly as can be, by the settings and what is recorded of the data alone."""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.data.entry import named_pictures
from components.data.image_roots import DEFAULT_FOLDER, DEFAULT_ZIP, ImageIndex, Place
from components.errors import InputError
from components.progress import Progress
from components.sources.recorded import RecordedMixture, mixture_file, read_mixture
from components.wds_conversion.config import SHARDS_FOLDER, WdsConversionConfig
from components.wds_conversion.entries import KeyMaker, read_entries
from components.wds_conversion.entry_rows import EntryRows
from components.wds_conversion.rows import ShardRows
from components.wds_conversion.shards import ShardTask
from components.wds_conversion.table_rows import TableRows

MARKERS_FOLDER = "markers"

_PROGRESS_ROWS = 10_000


def plan(raw: Path, folder: Path, config: WdsConversionConfig, progress: Progress) -> list[ShardTask]:
    """Deal the rows out in order: a shard's rows depend on settings and annotation file alone.

    Returns:
        A task per shard.

    Raises:
        InputError: The raw dataset can't be read, or has fewer entries than shards are asked for.
    """
    annotations = raw / config.annotations
    if mixture_file(annotations).is_file():
        return _streamed(read_mixture(mixture_file(annotations)), folder, config)
    return _listed(raw, folder, config, progress)


def shard_name(prefix: str, number: int, dataset: str = "") -> str:
    """Return a shard's name without extension; zero-padded, because energon divides shards in the order of their names."""
    return "-".join(part for part in (prefix, dataset, f"{number:06d}") if part)


def _listed(raw: Path, folder: Path, config: WdsConversionConfig, progress: Progress) -> list[ShardTask]:
    """Plan for an annotation file: it is read once and not kept, but for every row's place in it, key and picture's place."""
    annotations = raw / config.annotations
    index = ImageIndex(raw)
    keys_made = KeyMaker()
    offsets = array("q")
    keys: list[str] = []
    places: list[tuple[Place | None, ...]] = []
    progress.start("reading the annotations", None, "entries")
    for row, (offset, entry) in enumerate(read_entries(annotations)):
        names = _named_pictures(entry)
        if names and not index.sources:
            raise InputError(
                f"{raw} has neither {DEFAULT_ZIP} nor {DEFAULT_FOLDER}/, but {annotations} names pictures."
            )
        offsets.append(offset)
        keys.append(keys_made.key(row, entry))
        places.append(tuple(index.find(name) for name in names))
        if row % _PROGRESS_ROWS == 0:
            progress.update(row)

    def rows(first: int, last: int) -> ShardRows:
        return EntryRows(annotations, offsets[first], keys[first:last], places[first:last], index.sources)

    return [
        _task(folder, config, number, first, rows(first, last)) for number, first, last in _dealt(len(keys), config)
    ]


def _streamed(mixture: RecordedMixture, folder: Path, config: WdsConversionConfig) -> list[ShardTask]:
    """Plan for a mixture: each dataset has shards of its own."""
    held_out = frozenset(mixture.held_out)
    tasks, before = [], 0
    for dataset in mixture.datasets:
        name = dataset.name if len(mixture.datasets) > 1 else ""
        for number, first, last in _dealt(dataset.taken, config):
            rows = TableRows(dataset, first, last, held_out, mixture.transfer)
            tasks.append(_task(folder, config, number, before + first, rows, name))
        before += dataset.taken
    return tasks


def _dealt(rows: int, config: WdsConversionConfig) -> Iterator[tuple[int, int, int]]:
    """Yield number, first row and the row after the last one of every shard."""
    count = max(min(config.min_shards, rows), -(-rows // config.samples_per_shard))
    for number in range(count):
        yield number, number * rows // count, (number + 1) * rows // count


def _task(
    folder: Path, config: WdsConversionConfig, number: int, first_row: int, rows: ShardRows, dataset: str = ""
) -> ShardTask:
    name = shard_name(config.prefix, number, dataset)
    return ShardTask(
        path=folder / SHARDS_FOLDER / f"{name}.tar",
        marker=folder / MARKERS_FOLDER / f"{name}.json",
        dataset=dataset,
        first_row=first_row,
        rows=rows,
        check_images=config.check_images,
    )


def _named_pictures(entry: Any) -> tuple[str, ...]:
    try:
        return named_pictures(entry)
    except InputError:  # the entry is rejected where its shard is written
        return ()
