"""What a finished run of this machine has to show: scores beside their controls, captions, where all lies, what to try."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from components.evaluate.config import EVALUATION_PREFIX
from components.evaluate.samples import read_samples
from components.ports import is_free
from components.runs.folder import RunFolder
from components.runs.rows import FINISHED_STAGE, StageRow
from components.tasks.kind import MODEL
from pipelines.display import duration
from pipelines.next_steps import next_steps, program

_CAPTIONING = "captioning"
_CAPTIONS = 3


def print_summary(run: RunFolder, console: Console) -> None:
    """Print the scores of a finished run beside their controls, some captions, where the rest lies, and what to try."""
    rows = run.stages(over=True)
    for scores in (found for row in rows if row.stage.startswith(EVALUATION_PREFIX) and (found := _scores(row))):
        console.print(score_table(scores))
        for gate in scores.get("gates", []):
            verdict = "[green]✓ passed[/green]" if gate["passed"] else "[red]✗ not passed[/red]"
            console.print(
                f"{verdict}: {escape(gate['requirement'])}, measured {gate['measured']}"
                f"{'; ' + escape(gate['note']) if gate.get('note') else ''}",
                highlight=False,
                soft_wrap=True,
            )
    for row in rows:
        for line in _captions(row):
            console.print(line, soft_wrap=True)
    slowest = sorted((row for row in rows if row.state == "done"), key=lambda row: -row.seconds)
    reused = sum(row.state == "reused" for row in rows)
    times = [f"{row.stage} {duration(row.seconds)}" for row in slowest[:5]]
    if reused:
        times.append(f"{reused} stages finished before")
    for label, value in {"time": duration(run.seconds()), "stages": ", ".join(times), **locations(run)}.items():
        console.print(f"{label:<8} {value}", soft_wrap=True, highlight=False, markup=False)
    if _finished_folder(run, "report") is not None:
        for command, does in next_steps(run):
            console.print(f"\n{does}:\n  {command}", soft_wrap=True, highlight=False, markup=False)


def _captions(row: StageRow) -> list[Text]:
    """Return what the model says of some held-out pictures, if a stage has scored its captions."""
    scores = _scores(row) if row.stage.startswith(EVALUATION_PREFIX) and row.state in FINISHED_STAGE else None
    if scores is None or row.folder is None or scores.get("kind") != _CAPTIONING:
        return []
    samples = read_samples(row.folder).samples[:_CAPTIONS]
    lines = [Text(f"held-out pictures, in {row.folder}", "bold")] if samples else []
    for sample in samples:
        said = sample.answers[MODEL].text
        lines.append(Text.assemble((f"{sample.picture}\n", "dim"), "  the model: ", (said or "(nothing)", "bold")))
        lines.append(Text(f"  the truth: {sample.references[0] if sample.references else ''}", "dim"))
    return lines


def locations(run: RunFolder) -> dict[str, str]:
    """Return where a run's report, exported model, log and tracking are."""
    places = {}
    report = _finished_folder(run, "report")
    if report is not None:
        places["report"] = str(report / "report.html")
    exported = _finished_folder(run, "export")
    if exported is not None:
        places["model"] = str(exported)
    places["log"] = str(run.log)
    uri = run.context().get("tracking_uri", "")
    if uri.startswith("sqlite:"):
        places["MLflow"] = f"{program('mlflow')} ui --backend-store-uri {uri} --port {free_port(5000)}"
    elif uri:
        places["MLflow"] = uri
    return places


def _finished_folder(run: RunFolder, stage: str) -> Path | None:
    rows = (row for row in run.stages() if row.stage == stage and row.state in FINISHED_STAGE)
    return next((row.folder for row in rows), None)


def free_port(first: int) -> int:
    """Return the first free TCP port of this machine from `first` on."""
    return next((port for port in range(first, first + 200) if is_free(port)), first)


def _scores(row: StageRow) -> dict[str, Any] | None:
    """Return what an evaluation has written, if it has."""
    path = row.folder / "scores.json" if row.folder is not None else None
    if path is None or not path.is_file():
        return None
    scores: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return scores


def score_table(scores: dict[str, Any]) -> Table:
    """Return the scores of one task as a table, the controls beside them."""
    controls: dict[str, Any] = scores.get("controls", {})
    title = f"{scores['task']}: {scores['n_scored']} of {scores['n_expected']} scored"
    if scores.get("partial"):
        title += f"; PARTIAL: {scores['partial']}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("metric")
    for heading in ("model", "95 % interval", *controls):
        table.add_column(heading, justify="right")
    for name, metric in scores["metrics"].items():
        others = [_number(values.get(name)) for values in controls.values()]
        interval = ""
        if isinstance(metric, dict) and metric.get("low") is not None:
            interval = f"{metric['low']:.4g} to {metric['high']:.4g}"
        style = "bold" if name == scores.get("headline") else ""
        table.add_row(name, _number(metric), interval, *others, style=style)
    return table


def _number(metric: Any) -> str:
    value = metric.get("value") if isinstance(metric, dict) else metric
    return f"{value:.4g}" if isinstance(value, int | float) else ""
