"""A training's curves: for the report, as a page in KFP's UI, and as a picture in MLflow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.pages.charts import Figure, Point, Series, line_chart, smoothed
from components.pages.page import render_page, render_picture

TITLES = {"pretrain": "Pretraining", "sft": "Instruction tuning"}
"""Training stage to its name on pages."""

CURVES_NAME = "curves.svg"

_TEMPLATE = Path(__file__).parent / "templates" / "curves.html.j2"
_STEP = "step"

Rows = Sequence[Mapping[str, Any]]
"""Rows of `metrics.jsonl`."""


@dataclass(frozen=True)
class CurvesView:
    """What the template shows; see `templates/curves.html.j2`."""

    title: str
    figures: list[Figure]


def curve(rows: Rows, name: str) -> list[Point]:
    """Return (step, value) of a metric, where it was measured."""
    return [(float(row[_STEP]), float(row[name])) for row in rows if row.get(name) is not None]


def loss_figure(title: str, rows: Rows) -> Figure:
    """Draw the losses of training, faint as they were and smoothed, and of validation."""
    loss, validation = curve(rows, "loss"), curve(rows, "validation_loss")
    lines = [Series(loss, "faint"), Series(smoothed(loss)), Series(validation, "second", dots=True)]
    return Figure(
        "Loss per answer token",
        line_chart(f"{title}: loss", _STEP, lines),
        [("main", "training"), ("second", "validation")],
    )


def rate_figure(title: str, rows: Rows) -> Figure:
    """Draw the learning rate."""
    return Figure("Learning rate", line_chart(f"{title}: learning rate", _STEP, [Series(curve(rows, "learning_rate"))]))


def speed_figure(title: str, rows: Rows) -> Figure:
    """Draw how many samples a second were trained on."""
    return Figure("Samples per second", line_chart(f"{title}: speed", _STEP, [Series(curve(rows, "samples_per_s"))]))


def curves_page(title: str, rows: Rows) -> str:
    """Return an HTML page with all curves."""
    return render_page(_TEMPLATE, CurvesView(title, _figures(title, rows)))


def curves_picture(title: str, rows: Rows) -> str:
    """Return an SVG file with all curves."""
    return render_picture(title, _figures(title, rows))


def _figures(title: str, rows: Rows) -> list[Figure]:
    drawn = (draw(title, rows) for draw in (loss_figure, rate_figure, speed_figure))
    return [figure for figure in drawn if figure.chart]
