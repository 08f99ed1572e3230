"""The conversion as a whole: rows dealt out to shards, shards written, rejects counted and judged."""

import contextlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.entry import named_picture
from components.data.image_roots import DEFAULT_FOLDER, DEFAULT_ZIP, ImageIndex, Place
from components.errors import InputError
from components.files import TEMPORARY_SUFFIX, FileEntry
from components.progress import Progress
from components.storage.atomic import open_atomic
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.entries import KeyMaker, read_entries
from components.wds_conversion.shards import Reject, ShardResult, ShardTask, write_shards

SHARDS_FOLDER = "shards"
MARKERS_FOLDER = "markers"
REJECTS_FILE = "rejects.jsonl"

ROWS_PER_PROCESS = 5000  # a process takes seconds to start, and writes about 1000 rows in one

_EXAMPLES = 3
_PROGRESS_ROWS = 10_000


@dataclass(frozen=True)
class Part:
    """A share of the shards: `number`, from 0, of `total` ranges of nearly equal length."""

    number: int
    total: int


WHOLE = Part(0, 1)


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        entries: Entries of the whole annotation file; a part writes some of them.
        facts: Counts: entries, samples, text_only, rejected, shards, bytes, formats, reject_causes.
        files: Size and checksum of every shard, by its path relative to the folder.
    """

    entries: int
    facts: dict[str, Any]
    files: dict[str, FileEntry]


def convert(
    raw: Path,
    folder: Path,
    config: WdsConversionConfig,
    processes: int,
    progress: Progress,
    part: Part = WHOLE,
    rows_per_process: int = ROWS_PER_PROCESS,
) -> Converted:
    """Write the shards of a raw dataset, or a part of them; shards that an interrupted run completed are kept.

    Args:
        raw: The raw dataset folder.
        folder: Where `shards/`, `markers/` and `rejects.jsonl` go.
        config: The settings.
        processes: Most processes to use; the result does not depend on it.
        progress: Where to report.
        part: Which of the shards to write.
        rows_per_process: Entries for which another process is worth its start.

    Raises:
        InputError: The raw dataset can't be read, or too many entries were rejected.
        StageError: A process was killed.
    """
    entries, every_task = plan(raw, folder, config, progress)
    first, last = (number * len(every_task) // part.total for number in (part.number, part.number + 1))
    tasks = every_task[first:last]
    rows = sum(len(task.keys) for task in tasks)
    limit = config.max_reject_share * entries
    _remove_leftovers(folder)
    progress.start("writing shards", rows, "samples")
    results: dict[str, ShardResult] = {}

    def report(task: ShardTask, result: ShardResult, kept: bool) -> None:
        results[task.path.stem] = result
        if kept:
            progress.start("writing shards", rows, "samples", done=_rows(results))
        progress.update(_rows(results), rejected=_rejected(results))
        if _rejected(results) > limit:
            raise _TooManyRejects

    with contextlib.suppress(_TooManyRejects):  # what is still to come could not mend it
        write_shards(tasks, max(1, min(processes, rows // rows_per_process)), report)
    _remove_leftovers(folder)  # a killed run's processes may have lived a moment longer than it
    write_rejects(folder / REJECTS_FILE, results)
    judge(results, entries, config, raw / config.annotations, folder / REJECTS_FILE)
    return Converted(entries, summary(results), shard_files(results))


def plan(raw: Path, folder: Path, config: WdsConversionConfig, progress: Progress) -> tuple[int, list[ShardTask]]:
    """Deal the rows out in order, as evenly as can be: a shard's rows depend on settings and annotation file alone.

    The annotation file is read once and not kept: of every row its place in the file, its key and its picture's place.

    Returns:
        The number of entries, and a task per shard.

    Raises:
        InputError: The raw dataset can't be read, or has fewer entries than shards are asked for.
    """
    annotations = raw / config.annotations
    index = ImageIndex(raw)
    keys_made = KeyMaker()
    offsets = array("q")
    keys: list[str] = []
    places: list[Place | None] = []
    progress.start("reading the annotations", None, "entries")
    for row, (offset, entry) in enumerate(read_entries(annotations)):
        name = _named_picture(entry)
        if name and not index.sources:
            raise InputError(
                f"{raw} has neither {DEFAULT_ZIP} nor {DEFAULT_FOLDER}/, but {annotations} names pictures."
            )
        offsets.append(offset)
        keys.append(keys_made.key(row, entry))
        places.append(index.find(name) if name else None)
        if row % _PROGRESS_ROWS == 0:
            progress.update(row)
    count = max(min(config.min_shards, len(keys)), -(-len(keys) // config.samples_per_shard))
    bounds = [number * len(keys) // count for number in range(count + 1)]
    names = [shard_name(config.prefix, number) for number in range(count)]
    return len(keys), [
        ShardTask(
            path=folder / SHARDS_FOLDER / f"{name}.tar",
            marker=folder / MARKERS_FOLDER / f"{name}.json",
            annotations=annotations,
            offset=offsets[first],
            first_row=first,
            keys=keys[first:last],
            places=places[first:last],
            sources=index.sources,
            check_images=config.check_images,
        )
        for name, first, last in zip(names, bounds[:-1], bounds[1:], strict=True)
    ]


def shard_name(prefix: str, number: int) -> str:
    """Return a shard's name without extension; zero-padded, because energon divides shards in the order of their names."""
    return f"{prefix}-{number:06d}"


def write_rejects(path: Path, results: dict[str, ShardResult]) -> None:
    """Write the list of rejects, a JSON object per line, in the order of the rows."""
    with open_atomic(path, "w") as stream:
        for reject in _rejects(results):
            stream.write(json.dumps(vars(reject), ensure_ascii=False) + "\n")


def summary(results: dict[str, ShardResult]) -> dict[str, Any]:
    """Return the facts of shards: entries, samples, text_only, rejected, shards, bytes, formats, reject_causes."""
    causes = Counter(reject.cause for reject in _rejects(results))
    formats: Counter[str] = Counter()
    for result in results.values():
        formats.update(result.formats)
    return {
        "entries": _rows(results),
        "samples": sum(result.samples for result in results.values()),
        "text_only": sum(result.text_only for result in results.values()),
        "rejected": causes.total(),
        "shards": sum(result.samples > 0 for result in results.values()),
        "bytes": sum(result.size for result in results.values()),
        "formats": dict(sorted(formats.items())),
        "reject_causes": dict(sorted(causes.items())),
    }


def shard_files(results: dict[str, ShardResult]) -> dict[str, FileEntry]:
    """Return size and checksum of every shard, by its path relative to the stage's folder."""
    return {
        f"{SHARDS_FOLDER}/{name}.tar": FileEntry(size=result.size, sha256=result.sha256)
        for name, result in results.items()
        if result.samples
    }


def judge(
    results: dict[str, ShardResult], entries: int, config: WdsConversionConfig, annotations: Path, listing: Path
) -> None:
    """Fail if too many entries were rejected.

    Args:
        results: Shard name to result, of all shards or of some.
        entries: Number of entries of the whole annotation file.
        config: The settings.
        annotations: The annotation file, for the message.
        listing: The list of rejects, for the message.

    Raises:
        InputError: More than `max_reject_share` were rejected.
    """
    rejected = _rejected(results)
    if rejected <= config.max_reject_share * entries:
        return
    causes = dict(sorted(Counter(reject.cause for reject in _rejects(results)).items()))
    examples = "; ".join(
        f"row {reject.row} ({reject.id}): {reject.detail}" for reject in list(_rejects(results))[:_EXAMPLES]
    )
    unseen = entries - _rows(results)
    stopped = f" ({unseen} were not looked at)" if unseen else ""
    raise InputError(
        f"{rejected} of {entries} entries of {annotations} can't be used{stopped}, more than `max_reject_share` = "
        f"{config.max_reject_share} allows: {causes}. First: {examples}. All are listed in {listing}. "
        "Mend the data, or raise `max_reject_share`."
    )


def check_shard_count(facts: dict[str, Any], config: WdsConversionConfig, listing: Path) -> None:
    """Fail if rejects left fewer shards than asked for.

    Raises:
        InputError: Fewer than `min_shards` shards have samples, or than entries, where those are fewer.
    """
    if facts["shards"] < min(config.min_shards, facts["entries"]):
        raise InputError(
            f"Only {facts['shards']} shards have samples, `min_shards` asks for {config.min_shards}. See {listing}."
        )


def _named_picture(entry: Any) -> str | None:
    try:
        return named_picture(entry)
    except InputError:  # the entry is rejected where its shard is written
        return None


class _TooManyRejects(Exception):
    """More entries were rejected than the whole dataset may have."""


def _remove_leftovers(folder: Path) -> None:
    """Remove half-written files of a run that was killed."""
    for name in (SHARDS_FOLDER, MARKERS_FOLDER):
        for path in (folder / name).glob(f"*{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)


def _rejects(results: dict[str, ShardResult]) -> Iterable[Reject]:
    return (reject for name in sorted(results) for reject in results[name].rejects)


def _rejected(results: dict[str, ShardResult]) -> int:
    return sum(len(result.rejects) for result in results.values())


def _rows(results: dict[str, ShardResult]) -> int:
    return sum(result.rows for result in results.values())
