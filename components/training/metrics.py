"""Training metrics: rows in `metrics.jsonl`, curves in MLflow and as a picture."""

import html
import io
import json
from pathlib import Path
from typing import Any

from components.storage.atomic import write_text
from components.tracking.tracker import StageTracker

CURVES_NAME = "curves.svg"


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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a `metrics.jsonl`; a last line that a killed run left incomplete is dropped."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number != len(lines):
                raise
    return rows


def curves_svg(rows: list[dict[str, Any]], title: str) -> str:
    """Return an SVG over the steps: the loss (training and validation), below it the learning rate and the speed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    loss_axes, rate_axes, speed_axes = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 1])
    for key, label in (("loss", "training"), ("validation_loss", "validation")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            loss_axes.plot(
                *zip(*points, strict=True), label=label, marker="o" if key != "loss" else None, linewidth=1.2
            )
    for axes, key, color in ((rate_axes, "learning_rate", "tab:green"), (speed_axes, "samples_per_s", "tab:purple")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, linewidth=1.2)
    loss_axes.set(title=title, ylabel="loss per answer token")
    loss_axes.legend(frameon=False)
    rate_axes.set(ylabel="learning rate")
    speed_axes.set(xlabel="step", ylabel="samples/s")
    speed_axes.set_ylim(bottom=0)
    for axes in (loss_axes, rate_axes, speed_axes):
        axes.grid(alpha=0.3)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()


def curves_html(svg: str, title: str) -> str:
    """Wrap the curves for KFP's HTML artifact."""
    drawing = svg[svg.index("<svg") :]
    return f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title>\n{drawing}\n"
