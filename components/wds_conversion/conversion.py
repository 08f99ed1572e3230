"""The conversion as a whole: rows to shards, rejects counted and judged."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.stage.progress import Progress
from components.storage.atomic import TEMPORARY_SUFFIX, open_atomic
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.entries import read_entries, sample_keys
from components.wds_conversion.pictures import FOLDER_NAME, ZIP_NAME, Pictures, open_pictures
from components.wds_conversion.shards import Row, ShardResult, ShardTask, write_shards

SHARDS_FOLDER = "shards"
MARKERS_FOLDER = "markers"
REJECTS_FILE = "rejects.jsonl"

_EXAMPLES = 3


def convert(raw: Path, folder: Path, config: WdsConversionConfig, processes: int, progress: Progress) -> dict[str, Any]:
    """Write the shards of a raw dataset; shards that an interrupted run completed are kept.

    Args:
        raw: The raw dataset folder.
        folder: Where `shards/`, `markers/` and `rejects.jsonl` go.
        config: The settings.
        processes: Processes to use; the result does not depend on it.
        progress: Where to report.

    Returns:
        Counts: entries, samples, text_only, rejected, shards, bytes, formats, reject_causes.

    Raises:
        InputError: The raw dataset can't be read, or too many entries were rejected.
    """
    annotations = raw / config.annotations
    entries = read_entries(annotations)
    pictures = open_pictures(raw)
    if pictures is None and any(isinstance(entry, dict) and entry.get("image") for entry in entries):
        raise InputError(f"{raw} has neither {ZIP_NAME} nor {FOLDER_NAME}/, but {annotations} names pictures.")
    tasks = _tasks(entries, pictures, folder, config)
    _remove_leftovers(folder)
    progress.start("writing shards", len(entries), "samples")
    done = 0

    def report(result: ShardResult) -> None:
        nonlocal done
        done += result.rows
        progress.update(done)

    results = write_shards(tasks, processes, report)
    _write_rejects(folder / REJECTS_FILE, results)
    facts = _facts(results)
    _judge(facts, results, config, annotations, folder / REJECTS_FILE)
    return facts


def _tasks(
    entries: Sequence[Any], pictures: Pictures | None, folder: Path, config: WdsConversionConfig
) -> list[ShardTask]:
    """Deal the rows out in order, as evenly as can be; a shard's rows depend on the settings and the number of entries alone."""
    count = max(config.min_shards, -(-len(entries) // config.samples_per_shard))
    if len(entries) < count:
        raise InputError(
            f"{config.annotations} has {len(entries)} entries, fewer than the {count} shards that `min_shards` asks for."
        )
    rows = [
        Row(number, key, entry, _find(pictures, entry))
        for number, (key, entry) in enumerate(zip(sample_keys(list(entries)), entries, strict=True))
    ]
    bounds = [number * len(rows) // count for number in range(count + 1)]
    archive = pictures.path if pictures is not None and pictures.members is not None else None
    names = [f"{config.prefix}-{number:06d}" for number in range(count)]
    return [
        ShardTask(
            path=folder / SHARDS_FOLDER / f"{name}.tar",
            marker=folder / MARKERS_FOLDER / f"{name}.json",
            archive=archive,
            rows=rows[first:last],
            check_images=config.check_images,
        )
        for name, first, last in zip(names, bounds[:-1], bounds[1:], strict=True)
    ]


def _find(pictures: Pictures | None, entry: Any) -> Any:
    name = entry.get("image") if isinstance(entry, dict) else None
    return pictures.find(name) if pictures is not None and isinstance(name, str) else None


def _remove_leftovers(folder: Path) -> None:
    """Remove half-written files of a run that was killed."""
    for name in (SHARDS_FOLDER, MARKERS_FOLDER):
        for path in (folder / name).glob(f"*{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)


def _write_rejects(path: Path, results: Iterable[ShardResult]) -> None:
    with open_atomic(path, "w") as stream:
        for result in results:
            for reject in result.rejects:
                stream.write(json.dumps(vars(reject), ensure_ascii=False) + "\n")


def _facts(results: Sequence[ShardResult]) -> dict[str, Any]:
    causes = Counter(reject.cause for result in results for reject in result.rejects)
    formats: Counter[str] = Counter()
    for result in results:
        formats.update(result.formats)
    return {
        "entries": sum(result.rows for result in results),
        "samples": sum(result.samples for result in results),
        "text_only": sum(result.text_only for result in results),
        "rejected": causes.total(),
        "shards": sum(result.samples > 0 for result in results),
        "bytes": sum(result.size for result in results),
        "formats": dict(sorted(formats.items())),
        "reject_causes": dict(sorted(causes.items())),
    }


def _judge(
    facts: dict[str, Any], results: Sequence[ShardResult], config: WdsConversionConfig, annotations: Path, listing: Path
) -> None:
    rejects = [reject for result in results for reject in result.rejects]
    examples = "; ".join(f"row {reject.row} ({reject.id}): {reject.detail}" for reject in rejects[:_EXAMPLES])
    if facts["rejected"] > config.max_reject_share * facts["entries"]:
        raise InputError(
            f"{facts['rejected']} of {facts['entries']} entries of {annotations} can't be used, more than `max_reject_share` = "
            f"{config.max_reject_share} allows: {facts['reject_causes']}. First: {examples}. All are listed in {listing}. "
            "Mend the data, or raise `max_reject_share`."
        )
    if facts["shards"] < config.min_shards:
        raise InputError(
            f"Only {facts['shards']} shards have samples, `min_shards` asks for {config.min_shards}. See {listing}."
        )


def available_processes() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
