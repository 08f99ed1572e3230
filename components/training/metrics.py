"""Training metrics: rows in `metrics.jsonl` and in MLflow."""

import json
from pathlib import Path

from components.storage.atomic import write_text
from components.tracking.metrics_file import read_metrics
from components.tracking.tracker import StageTracker


class MetricsLog:
    """Appends rows of metrics to a file and sends them to MLflow.

    Args:
        path: `metrics.jsonl`; rows after `resumed_step` (from a run that was killed later than its last checkpoint)
            are dropped, so that the file reads like that of an uninterrupted run.
        resumed_step: Step that the run goes on from; 0 for a fresh start.
        tracker: Receives the rows too.
    """

    def __init__(self, path: Path, resumed_step: int, tracker: StageTracker) -> None:
        self._path = path
        self._tracker = tracker
        kept = [row for row in read_metrics(path) if row["step"] <= resumed_step] if path.exists() else []
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def log(self, step: int, values: dict[str, float | str]) -> None:
        """Append one row; texts stay out of MLflow."""
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._tracker.log_metrics(values, step=step)
