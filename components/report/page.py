"""Collects what the report shows and fills its template."""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.context import RunContext
from components.evaluate.page import TEMPLATES as EVALUATION_TEMPLATES
from components.evaluate.page import EvaluationView, evaluation_view
from components.evaluate.paper import PaperTable, paper_table
from components.evaluate.profile import profile
from components.evaluate.samples import read_samples
from components.evaluate.scores import read_scores
from components.pages.charts import Figure
from components.pages.formats import duration, moment, points, size
from components.pages.page import render_page
from components.report.config import ReportConfig
from components.report.data import MixtureView, mixture_views
from components.report.decontamination import LIKENESS, DecontaminationView, decontamination_views
from components.runs.lineage import StageRecord, upstream_stages
from components.stage.manifest import Manifest
from components.tracking.metrics_file import METRICS_FILE, read_metrics
from components.training.curves import TITLES, curve, loss_figure, rate_figure
from components.training.zero_shot_texts import Described, read_texts

_TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"


@dataclass(frozen=True)
class TrainingView:
    """A training's curves and figures, and what it said of one held-out picture at each step that asked for it."""

    title: str
    figures: list[Figure]
    facts: list[tuple[str, str]]
    said: list[Described]


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
    summary: list[tuple[str, str, str, str]]
    dataset: str
    evaluations: list[EvaluationView]
    paper: PaperTable
    profile: list[Figure]
    trainings: list[TrainingView]
    mixtures: list[MixtureView]
    decontamination: list[DecontaminationView]
    likeness: list[str]
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
    scored = {
        context.run_name: {folder.parent.name: item.scores for folder, item in zip(evaluations, views, strict=True)}
    }
    this_run = [record for record in stages if not record.reused]
    view = ReportView(
        title=context.run_name,
        facts=_run_facts(context, config),
        summary=[_summary(f"task-{number}", item) for number, item in enumerate(views, start=1)],
        dataset=_dataset(stages),
        evaluations=views,
        paper=paper_table(scored),
        profile=profile(scored),
        trainings=[_training(TITLES["pretrain"], pretrain, stages), _training(TITLES["sft"], sft, stages)],
        mixtures=mixture_views(stages),
        decontamination=decontamination_views(stages),
        likeness=list(LIKENESS.values()),
        stages=_stage_rows(stages),
        total=duration(sum(record.manifest.duration_s for record in this_run)),
        reused=len(stages) - len(this_run),
    )
    return render_page(_TEMPLATE, view, parts=[EVALUATION_TEMPLATES])


def _run_facts(context: RunContext, config: ReportConfig) -> list[tuple[str, str]]:
    facts = [
        ("Date", moment(datetime.datetime.now(datetime.UTC))),
        ("Preset", config.preset),
        ("Commit", context.git_commit[:12]),
        ("Run", context.run_id),
        ("MLflow run", context.mlflow_run_id),
    ]
    return [(name, value) for name, value in facts if value]


def _summary(anchor: str, view: EvaluationView) -> tuple[str, str, str, str]:
    """Return anchor, title, headline and the line below it for one evaluation."""
    scores = view.scores
    best = scores.best_control
    beside = f"best control {points(scores.controls[best][scores.headline].value)}" if best else "no control"
    return (
        anchor,
        view.title,
        f"{scores.label(scores.headline)} {points(scores.metrics[scores.headline].value)}",
        beside,
    )


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
    rows = read_metrics(folder / METRICS_FILE) if (folder / METRICS_FILE).is_file() else []
    facts = next(record.manifest.facts for record in stages if record.folder == folder.resolve())
    figures = [figure for figure in (loss_figure(title, rows), rate_figure(title, rows)) if figure.chart]
    said = [samples[0] for samples in read_texts(folder) if samples]
    return TrainingView(title, figures, _training_facts(facts, rows), said)


def _training_facts(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    shown = []
    if loss := curve(rows, "loss"):
        shown += [("Steps", f"{loss[-1][0]:,.0f}"), ("Training loss", f"{loss[0][1]:.3f} → {loss[-1][1]:.3f}")]
    if validation := curve(rows, "validation_loss"):
        first = f"{validation[0][1]:.3f} → " if len(validation) > 1 else ""
        shown.append(("Validation loss", f"{first}{validation[-1][1]:.3f}"))
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
                inputs=[
                    (name, f"{manifest.read_from[name]}, {identity}" if name in manifest.read_from else identity)
                    for name, identity in manifest.inputs.items()
                ],
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
