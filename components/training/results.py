"""What a training leaves for people and for its stage when it has finished: curves, skipped samples, and a summary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.data.resume import LoaderCounts
from components.storage.atomic import write_json, write_text
from components.tracking.metrics_file import METRICS_FILE, read_metrics
from components.training.curves import CURVES_NAME, curves_picture
from components.training.summary import SKIPPED_NAME, SUMMARY_NAME
from components.training.throughput import RATES

_FINAL = ("loss", "validation_loss", "zero_shot_cider")
_PEAKS = ("memory_allocated_gib", "memory_reserved_gib", "memory_resident_gib")


def write_results(folder: Path, stage: str, facts: Mapping[str, Any], counts: LoaderCounts) -> None:
    """Write `curves.svg`, `skipped_samples.json` and, last, `summary.json`.

    Args:
        folder: The training's output folder, with its rows of metrics.
        stage: Its name, for the curves.
        facts: What the trainer knows of the training.
        counts: What became of the samples of all processes.
    """
    rows = read_metrics(folder / METRICS_FILE)
    write_text(folder / CURVES_NAME, curves_picture(stage, rows))
    write_json(folder / SKIPPED_NAME, counts.reasons)
    samples = {"skipped_samples": counts.skipped, "truncated_samples": counts.truncated}
    write_json(folder / SUMMARY_NAME, {**facts, **samples, **_of_metrics(rows)})


def _of_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the last losses, the medians of rates, and the peaks of memory, as far as they were measured."""

    def values(key: str) -> list[float]:
        return [row[key] for row in rows if key in row]

    found = {f"final_{key}": values(key)[-1:] for key in _FINAL}
    found |= {f"median_{key}": sorted(values(key))[len(values(key)) // 2 :][:1] for key in RATES}
    found |= {f"peak_{key}": sorted(values(key))[-1:] for key in _PEAKS}
    return {key: value for key, one in found.items() for value in one}
