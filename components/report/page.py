"""Collects what the report shows and fills its template."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from components.context import RunContext
from components.evaluate.page import EvaluationView, environment, evaluation_view, stylesheet
from components.evaluate.samples import read_samples
from components.evaluate.scores import read_scores
from components.report.charts import Point, Series, line_chart, smoothed, thinned
from components.report.config import ReportConfig
from components.report.lineage import StageRecord, upstream_stages
from components.stage.manifest import Manifest
from components.tracking.tracker import METRICS_FILE

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_POINTS = 400
_SMOOTHING_SHARE = 25


@dataclass(frozen=True)
class TrainingView:
    """A training's curves and figures."""

    title: str
    loss: Markup
    rate: Markup
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class StageRow:
    """A stage's line in timings and lineage; `width` in percent of the longest stage."""

    name: str
    seconds: float
    duration: str
    width: float
    reused: bool
    key: str
    inputs: list[tuple[str, str]]
    settings: str
    facts: str
    size: str


@dataclass(frozen=True)
class ReportView:
    """What the template shows; see `templates/report.html.j2`."""

    title: str
    facts: list[tuple[str, str]]
    summary: list[tuple[str, str, str]]
    dataset: str
    evaluations: list[EvaluationView]
    trainings: list[TrainingView]
    stages: list[StageRow]
    total: str
    reused: int


def render_report(
    context: RunContext, config: ReportConfig, pretrain: Path, sft: Path, evaluations: Sequence[Path]
) -> str:
    """Return the report as HTML that needs nothing else: no file, no network.

    Raises:
        StageError: An input is not a finished stage folder, or its files are not as expected.
    """
    stages = upstream_stages(context, [pretrain, sft, *evaluations])
    views = []
    for folder in evaluations:
        scores, samples = read_scores(folder), read_samples(folder)
        views.append(evaluation_view(scores, samples.samples[: config.samples], folder))
    this_run = [record for record in stages if not record.reused]
    view = ReportView(
        title=context.run_name,
        facts=_run_facts(context, config),
        summary=[_summary(item) for item in views],
        dataset=_dataset(stages),
        evaluations=views,
        trainings=[_training("Pretraining", pretrain, stages), _training("Instruction tuning", sft, stages)],
        stages=_stage_rows(stages),
        total=duration(sum(record.manifest.duration_s for record in this_run)),
        reused=len(stages) - len(this_run),
    )
    template = environment(_TEMPLATES).get_template("report.html.j2")
    return template.render(view=view, css=report_stylesheet())


def report_stylesheet() -> Markup:
    """Return the style sheet of pages with charts."""
    return stylesheet() + Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))


def duration(seconds: float) -> str:
    """Return a duration for people: "0.4 s", "42 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: int) -> str:
    """Return a number of bytes for people, in powers of 1000."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _run_facts(context: RunContext, config: ReportConfig) -> list[tuple[str, str]]:
    now = datetime.datetime.now(datetime.UTC)
    facts = [
        ("Date", f"{now:%-d %B %Y, %H:%M} UTC"),
        ("Preset", config.preset),
        ("Commit", context.git_commit[:12]),
        ("Run", context.run_id),
        ("MLflow run", context.mlflow_run_id),
    ]
    return [(name, value) for name, value in facts if value]


def _summary(view: EvaluationView) -> tuple[str, str, str]:
    scores = view.scores
    measure = scores.metrics[scores.headline]
    best = scores.best_control
    beside = f"best control {scores.controls[best][scores.headline].value:.1f}" if best else "no control"
    return view.title, f"{scores.label(scores.headline)} {measure.value:.1f}", beside


def _dataset(stages: Sequence[StageRecord]) -> str:
    """Return a sentence on the data, from the first upstream folder that describes one."""
    for record in stages:
        path = record.folder / "dataset.json"
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                return ""
            name = content.get("name")
            held_out = content.get("held_out") or content.get("counts", {}).get("held_out")
            parts = [f"Data: {name}." if name else "", f"Held out: {held_out}." if isinstance(held_out, str) else ""]
            return " ".join(part for part in parts if part)
    return ""


def _training(title: str, folder: Path, stages: Sequence[StageRecord]) -> TrainingView:
    rows = _metric_rows(folder / METRICS_FILE)
    loss, validation = _points(rows, "loss"), _points(rows, "validation_loss")
    rate = _points(rows, "learning_rate") or _points(rows, "lr")
    window = max(1, len(loss) // _SMOOTHING_SHARE)
    facts = next(record.manifest.facts for record in stages if record.folder == folder.resolve())
    return TrainingView(
        title=title,
        loss=line_chart(
            f"{title}: loss",
            "step",
            [
                Series("", thinned(loss, _MOST_POINTS), "faint"),
                Series("training", thinned(smoothed(loss, window), _MOST_POINTS)),
                Series("validation", thinned(validation, _MOST_POINTS), "second", dots=True),
            ],
        ),
        rate=line_chart(f"{title}: learning rate", "step", [Series("learning rate", thinned(rate, _MOST_POINTS))]),
        facts=_training_facts(facts, loss, validation),
    )


def _training_facts(facts: dict[str, Any], loss: Sequence[Point], validation: Sequence[Point]) -> list[tuple[str, str]]:
    shown = []
    if loss:
        shown += [("Steps", f"{loss[-1][0]:,.0f}"), ("Training loss", f"{loss[0][1]:.3f} → {loss[-1][1]:.3f}")]
    if validation:
        shown.append(
            (
                "Validation loss",
                f"{validation[0][1]:.3f} → {validation[-1][1]:.3f}"
                if len(validation) > 1
                else f"{validation[0][1]:.3f}",
            )
        )
    for name, label in (
        ("samples", "Samples"),
        ("median_samples_per_s", "Samples per second"),
        ("median_tokens_per_s", "Tokens per second"),
    ):
        if isinstance(facts.get(name), int | float):
            shown.append((label, f"{facts[name]:,.0f}"))
    for name, label in (
        ("median_useful_token_share", "Useful tokens of all that are computed"),
        ("median_mfu", "Model FLOP/s of the device's peak"),
    ):
        if isinstance(facts.get(name), int | float):
            shown.append((label, f"{facts[name]:.0%}"))
    if isinstance(facts.get("tensor_parallel"), int):
        shown.append(("Tensor × data parallel", f"{facts['tensor_parallel']} × {facts.get('data_parallel', 1)}"))
    if isinstance(facts.get("device"), str):
        shown.append(("Device", facts["device"]))
    return shown


def _metric_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _points(rows: Sequence[dict[str, Any]], name: str) -> list[Point]:
    return [(float(row["step"]), float(row[name])) for row in rows if row.get(name) is not None]


def _stage_rows(stages: Sequence[StageRecord]) -> list[StageRow]:
    longest = max([record.manifest.duration_s for record in stages if not record.reused] or [0.0]) or 1.0
    rows = []
    for record in stages:
        manifest = record.manifest
        seconds = 0.0 if record.reused else manifest.duration_s
        rows.append(
            StageRow(
                name=_stage_name(manifest),
                seconds=seconds,
                duration=duration(manifest.duration_s),
                width=round(100 * seconds / longest, 2),
                reused=record.reused,
                key=manifest.key,
                inputs=list(manifest.inputs.items()),
                settings=_json(manifest.settings),
                facts=_json(manifest.facts),
                size=size(manifest.total_bytes),
            )
        )
    return rows


def _stage_name(manifest: Manifest) -> str:
    """Return the stage's name, with the part where it ran in several ("0 of 2" is the first of two)."""
    number, _, parts = manifest.inputs.get("partition", "").partition(" of ")
    return f"{manifest.stage}, part {int(number) + 1} of {parts}" if parts not in ("", "1") else manifest.stage


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
