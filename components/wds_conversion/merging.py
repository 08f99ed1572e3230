"""Joins what several tasks converted: links their shards into one folder and checks that none is missing."""

import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from components.errors import StageError
from components.progress import Progress
from components.stage.manifest import read_manifest
from components.wds_conversion.config import QUESTIONS_FOLDER, SHARDS_FOLDER, WdsConversionConfig
from components.wds_conversion.conversion import (
    REJECTS_FILE,
    Converted,
    check_shard_count,
    judge,
    shard_files,
    write_findings,
    write_rejects,
)
from components.wds_conversion.left_out import LEFT_OUT_FOLDER
from components.wds_conversion.planning import MARKERS_FOLDER
from components.wds_conversion.shards import ShardResult, questions_file, read_marker


def merge(
    parts: Sequence[Path], folder: Path, config: WdsConversionConfig, annotations: Path, progress: Progress
) -> Converted:
    """Put the shards and markers of all parts into one folder, by hard link; by copy across file systems.

    Args:
        parts: Finished folders of the parts, in any order.
        folder: Where `shards/`, `markers/` and `rejects.jsonl` go.
        config: The settings.
        annotations: The annotation file, for messages.
        progress: Where to report.

    Returns:
        The same as one task that converted everything would.

    Raises:
        InputError: Too many entries were rejected.
        StageError: A shard is missing, or the parts don't belong together.
    """
    totals = {read_manifest(part).facts["entries_in_all"] for part in parts}
    markers = sorted(path for part in parts for path in (part / MARKERS_FOLDER).glob("*.json"))
    for name in (SHARDS_FOLDER, MARKERS_FOLDER, QUESTIONS_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    progress.start("joining shards", len(markers), "shards")
    results: dict[str, ShardResult] = {}
    for marker in markers:
        shard = marker.parent.parent / SHARDS_FOLDER / f"{marker.stem}.tar"
        result = read_marker(marker, shard)
        if result is None or marker.stem in results:
            raise StageError(
                f"{marker} and {shard} don't fit together, or another part has the shard as well. "
                f"Delete {marker.parent.parent} and run again."
            )
        results[marker.stem] = result
        _link(marker, folder / MARKERS_FOLDER / marker.name)
        if result.samples:
            _link(shard, folder / SHARDS_FOLDER / shard.name)
        if result.questions:
            questions = questions_file(shard)
            _link(questions, folder / QUESTIONS_FOLDER / questions.name)
        progress.update(len(results))
    _link_left_out(parts, folder)
    entries = _check_complete(results, totals)
    write_rejects(folder / REJECTS_FILE, results)
    judge(results, entries, config, annotations, folder / REJECTS_FILE)
    facts = write_findings(results, folder, config, annotations.parent)
    check_shard_count(facts, config, folder / REJECTS_FILE)
    return Converted(entries, facts, shard_files(results))


def _link_left_out(parts: Sequence[Path], folder: Path) -> None:
    """Put the pictures of left-out samples of all parts into one folder."""
    shutil.rmtree(folder / LEFT_OUT_FOLDER, ignore_errors=True)
    for part in parts:
        for path in sorted((part / LEFT_OUT_FOLDER).glob("*/*.jpg")):
            target = folder / path.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(path, target)


def _check_complete(results: dict[str, ShardResult], totals: set[int]) -> int:
    """Return the number of entries, if every one of them is in exactly one shard."""
    in_order = sorted(results.values(), key=lambda result: result.first_row)
    ends = itertools.accumulate((result.rows for result in in_order), initial=0)
    gaps = [result.first_row for result, end in zip(in_order, ends, strict=False) if result.first_row != end]
    rows = sum(result.rows for result in in_order)
    if gaps or totals != {rows}:
        raise StageError(
            f"The parts of the conversion don't make a whole: {len(results)} shards with {rows} of "
            f"{sorted(totals)} entries, gaps before rows {gaps[:3]}. Delete the parts' folders and run again."
        )
    return rows


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
