"""The conversion as a whole: rows dealt out to shards, shards written, rejects counted and judged."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.files import TEMPORARY_SUFFIX, FileEntry
from components.progress import Progress
from components.sources.recorded import RecordedDataset, RecordedMixture, mixture_file, read_mixture
from components.storage.atomic import open_atomic
from components.wds_conversion.config import QUESTIONS_FOLDER, SHARDS_FOLDER, WdsConversionConfig
from components.wds_conversion.decontamination import (
    decontamination_facts,
    remove_test_pictures,
    write_seen,
    write_test_pictures,
)
from components.wds_conversion.planning import MARKERS_FOLDER, plan
from components.wds_conversion.rows import Reject
from components.wds_conversion.shards import ShardResult, ShardTask, write_shards

REJECTS_FILE = "rejects.jsonl"

ROWS_PER_PROCESS = 1000  # the first process takes a second or two to start, and looks at 250 to 700 rows in one

_EXAMPLES = 3


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
        entries: Entries of the whole annotation file, or rows of all datasets; a part writes some of them.
        facts: See `summary`.
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
    every_task = plan(raw, folder, config, progress)
    entries = sum(len(task.rows) for task in every_task)
    first, last = (number * len(every_task) // part.total for number in (part.number, part.number + 1))
    tasks = every_task[first:last]
    rows = sum(len(task.rows) for task in tasks)
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

    if config.decontaminate != "off":
        known = write_test_pictures(raw, folder, processes, progress)
        keep = config.decontaminate == "report"
        tasks = [replace(task, known=known, keep_seen=keep) for task in tasks]
        progress.start("writing shards", rows, "samples")
    with contextlib.suppress(_TooManyRejects):  # what is still to come could not mend it
        write_shards(tasks, max(1, min(processes, rows // rows_per_process)), report)
    _remove_leftovers(folder)  # a killed run's processes may have lived a moment longer than it
    remove_test_pictures(folder)
    write_rejects(folder / REJECTS_FILE, results)
    judge(results, entries, config, raw / config.annotations, folder / REJECTS_FILE)
    return Converted(entries, write_findings(results, folder, config, raw), shard_files(results))


def write_findings(
    results: Mapping[str, ShardResult], folder: Path, config: WdsConversionConfig, raw: Path
) -> dict[str, Any]:
    """Write the list of test pictures that were found, and return the facts of a conversion; see `summary`."""
    seen = [item for name in sorted(results) for item in results[name].seen]
    write_seen(folder, seen)
    facts = summary(results, mixture_of(raw / config.annotations))
    facts["questions_noted"] = sum(result.questions for result in results.values())
    return {**facts, "decontamination": decontamination_facts(config.decontaminate, raw, seen)}


def write_rejects(path: Path, results: dict[str, ShardResult]) -> None:
    """Write the list of rejects, a JSON object per line, in the order of the rows."""
    with open_atomic(path, "w") as stream:
        for reject in _rejects(results):
            stream.write(json.dumps(vars(reject), ensure_ascii=False) + "\n")


def mixture_of(annotations: Path) -> RecordedMixture | None:
    """Return the mixture that is streamed instead of an annotation file; None where there is none.

    Raises:
        InputError: It was written by another version.
    """
    path = mixture_file(annotations)
    return read_mixture(path) if path.is_file() else None


def summary(results: Mapping[str, ShardResult], mixture: RecordedMixture | None = None) -> dict[str, Any]:
    """Return the facts of shards.

    Returns:
        Counts: entries, samples, text_only, several_pictures, rejected, shards, bytes; by name: formats, reject_causes,
        left_out (samples by cause; rows beyond a cap by "cap"). Of a mixture also `datasets`: the same counts of each dataset,
        with where it comes from and its weight.
    """
    facts = _counts(results)
    if mixture is None:
        return facts
    alone = len(mixture.datasets) == 1
    datasets = {}
    for dataset in mixture.datasets:
        own = {name: result for name, result in results.items() if alone or result.dataset == dataset.name}
        datasets[dataset.name] = {**_origin(dataset), **_counts(own, beyond_cap=dataset.rows - dataset.taken)}
    left_out: Counter[str] = Counter()
    for counts in datasets.values():
        left_out.update(counts["left_out"])
    return {**facts, "left_out": dict(sorted(left_out.items())), "datasets": datasets}


def _origin(dataset: RecordedDataset) -> dict[str, Any]:
    return {
        "source": dataset.shown,
        "config": dataset.config,
        "split": dataset.split,
        "layout": dataset.layout,
        "weight": dataset.weight,
        "rows": dataset.rows,
    }


def _counts(results: Mapping[str, ShardResult], beyond_cap: int = 0) -> dict[str, Any]:
    causes = Counter(reject.cause for reject in _rejects(results))
    formats: Counter[str] = Counter()
    left_out: Counter[str] = Counter({"cap": beyond_cap} if beyond_cap else {})
    for result in results.values():
        formats.update(result.formats)
        left_out.update(result.left_out)
    return {
        "entries": _rows(results),
        "samples": sum(result.samples for result in results.values()),
        "text_only": sum(result.text_only for result in results.values()),
        "several_pictures": sum(result.several_pictures for result in results.values()),
        "rejected": causes.total(),
        "shards": sum(result.samples > 0 for result in results.values()),
        "bytes": sum(result.size for result in results.values()),
        "formats": dict(sorted(formats.items())),
        "reject_causes": dict(sorted(causes.items())),
        "left_out": dict(sorted(left_out.items())),
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
        InputError: Fewer than `min_shards` shards of a dataset have samples, or than entries, where those are fewer.
    """
    for name, counts in facts.get("datasets", {"": facts}).items():
        if counts["shards"] < min(config.min_shards, counts["entries"]):
            whose = f"of {name} " if name else ""
            why = f" Left out were {counts['left_out']}." if counts["left_out"] else ""
            raise InputError(
                f"Only {counts['shards']} shards {whose}have samples, `min_shards` asks for {config.min_shards}.{why} See "
                f"{listing}."
            )


class _TooManyRejects(Exception):
    """More entries were rejected than the whole dataset may have."""


def _remove_leftovers(folder: Path) -> None:
    """Remove half-written files of a run that was killed."""
    for name in (SHARDS_FOLDER, MARKERS_FOLDER, QUESTIONS_FOLDER):
        for path in (folder / name).glob(f"*{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)


def _rejects(results: Mapping[str, ShardResult]) -> Iterable[Reject]:
    return (reject for name in sorted(results) for reject in results[name].rejects)


def _rejected(results: Mapping[str, ShardResult]) -> int:
    return sum(len(result.rejects) for result in results.values())


def _rows(results: Mapping[str, ShardResult]) -> int:
    return sum(result.rows for result in results.values())
