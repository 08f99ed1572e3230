"""A training's curves, as a page and as a picture file."""

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from kfp import dsl

from components.context import RunContext
from components.stage.runner import StageWork, run_stage
from components.tracking.metrics_file import METRICS_FILE
from components.training.curves import curve, curves_page, curves_picture
from components.training.kfp_metrics import publish_training
from tests.support.evaluation_world import AnySettings
from tests.support.html_pages import HOSTILE, parsed

ROWS: list[dict[str, Any]] = [
    {"step": step, "loss": 5 * math.exp(-step / 30), "learning_rate": 1e-3, "samples_per_s": 100.0}
    for step in range(1, 61)
] + [{"step": 60, "validation_loss": 1.5}]


def test_a_metric_is_drawn_where_it_was_measured() -> None:
    assert curve(ROWS, "validation_loss") == [(60.0, 1.5)]
    assert len(curve(ROWS, "loss")) == 60
    assert curve([{"step": 1, "loss": None}], "loss") == curve(ROWS, "unknown") == []


def test_the_page_has_every_curve() -> None:
    page = parsed(curves_page(HOSTILE, ROWS))
    for text in ("Loss per answer token", "training", "validation", "Learning rate", "Samples per second", HOSTILE):
        assert text in page.text, text
    assert [tag for tag, _ in page.tags].count("svg") == 3


def test_the_picture_leaves_out_what_was_not_measured() -> None:
    root = ElementTree.fromstring(curves_picture("sft", [{"step": 1, "loss": 2.0}]))
    captions = [
        (text.text or "").strip() for text in root.iter("{http://www.w3.org/2000/svg}text") if text.get("x") == "46"
    ]
    assert captions == ["Loss per answer token"]


def test_kfp_shows_numbers_and_curves_of_a_training(tmp_path: Path) -> None:
    """The page comes from the metrics alone: a training that an earlier version finished is shown, too."""

    def train(work: StageWork) -> dict[str, Any]:
        (work.folder / METRICS_FILE).write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        return {"final_loss": 0.7, "device": "cpu"}

    context = RunContext(run_id="run-1", run_name="run", workspace=tmp_path)
    output = run_stage(context, stage="sft", version=1, inputs={}, settings=AnySettings(), body=train)
    metrics, curves = dsl.Metrics(), dsl.HTML(uri=str(tmp_path / "curves.html"))
    publish_training(output, metrics, curves)
    assert metrics.metadata == {"final_loss": 0.7}
    assert [tag for tag, _ in parsed((tmp_path / "curves.html").read_text()).tags].count("svg") == 3
