"""What a person sees of a local run: a live table in a terminal, plain lines elsewhere, a summary at the end."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from components.evaluate.config import EVALUATION_PREFIX
from components.runs.folder import FINISHED_STAGE, RunFolder, StageRow

_LIVE_POLL_S = 0.5
_PLAIN_POLL_S = 1.0
_PLAIN_LINE_S = 20.0
_MARKS = {
    "waiting": ("·", "dim"),
    "running": ("▶", "bold cyan"),
    "done": ("✓", "green"),
    "reused": ("↺", "green"),
    "failed": ("✗", "bold red"),
    "interrupted": ("■", "yellow"),
}


class Child(Protocol):
    """The part of `subprocess.Popen` that is used here."""

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""


def follow(run: RunFolder, child: Child, console: Console) -> int:
    """Show a run until its process ends, and return the exit status."""
    if console.is_terminal:
        return _follow_live(run, child, console)
    return _follow_plainly(run, child, lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False))


def stage_table(run: RunFolder, rows: list[StageRow]) -> RenderableType:
    """Return the table of a run's stages."""
    table = Table(box=None, padding=(0, 1), show_header=False)
    for _ in range(4):
        table.add_column(no_wrap=True)
    table.columns[2].justify = "right"
    for row in rows:
        mark, style = _MARKS.get(row.state, ("?", ""))
        took = duration(row.seconds) if row.state not in ("waiting", "reused") else ""
        table.add_row(
            Text(mark, style), Text(row.stage, style), took, Text(what(row), "" if row.state == "running" else "dim")
        )
    return Group(Text(f"{run.run_id}   {run.path}", "bold"), table)


def what(row: StageRow) -> str:
    """Return what a stage is doing, or how it ended, in one line."""
    if row.state != "running":
        return {"waiting": "", "done": "", "reused": "finished before"}.get(
            row.state, row.message.splitlines()[0] if row.message else row.state
        )
    parts = []
    if row.activity:
        total = f"/{row.total}" if row.total is not None else ""
        parts.append(f"{row.activity} {row.done}{total} {row.unit}".strip() if row.unit else row.activity)
    if row.rate > 0 and row.unit:
        parts.append(f"{row.rate:.3g}/s")
    parts += [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.fields]
    if row.left_s:
        parts.append(f"{duration(row.left_s)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return seconds as people write them: 8 s, 3:25, 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def print_summary(run: RunFolder, console: Console) -> None:
    """Print the scores of a finished run beside their controls, and where the rest lies."""
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
    slowest = sorted((row for row in rows if row.state == "done"), key=lambda row: -row.seconds)
    reused = sum(row.state == "reused" for row in rows)
    times = [f"{row.stage} {duration(row.seconds)}" for row in slowest[:5]]
    if reused:
        times.append(f"{reused} stages finished before")
    for label, value in {"time": duration(run.seconds()), "stages": ", ".join(times), **locations(run)}.items():
        console.print(f"{label:<8} {value}", soft_wrap=True, highlight=False, markup=False)


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
        places["MLflow"] = f"{_program('mlflow')} ui --backend-store-uri {uri} --port {free_port(5000)}"
    elif uri:
        places["MLflow"] = uri
    return places


def _program(name: str) -> str:
    """Return how to call a program of this environment from here, activated or not."""
    path = Path(sys.executable).with_name(name)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _finished_folder(run: RunFolder, stage: str) -> Path | None:
    rows = (row for row in run.stages() if row.stage == stage and row.state in FINISHED_STAGE)
    return next((row.folder for row in rows), None)


def free_port(first: int) -> int:
    """Return the first free TCP port of this machine from `first` on."""
    import socket

    for port in range(first, first + 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    return first


def _follow_live(run: RunFolder, child: Child, console: Console) -> int:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            status = child.poll()
            live.update(stage_table(run, run.stages(over=status is not None)), refresh=True)
            if status is not None:
                return status
            time.sleep(_LIVE_POLL_S)


def _follow_plainly(run: RunFolder, child: Child, say: Callable[[str], None]) -> int:
    """Say a line when a stage starts or ends, and one every 20 seconds while it runs."""
    states: dict[str, str] = {}
    spoke: dict[str, float] = {}
    while True:
        status = child.poll()
        now = time.monotonic()
        for row in run.stages(over=status is not None):
            if row.state == "waiting":
                continue
            if states.get(row.stage) != row.state:
                # A stage that was over before it was seen gets one line.
                states[row.stage] = row.state
                spoke[row.stage] = now
                took = f" ({duration(row.seconds)})" if row.state in ("done", "failed", "interrupted") else ""
                started = "started" if row.state == "running" else what(row) or row.state
                say(f"{row.stage}: {started}{took}")
            elif row.state == "running" and now - spoke[row.stage] >= _PLAIN_LINE_S:
                spoke[row.stage] = now
                say(f"{row.stage}: {what(row)}")
        if status is not None:
            return status
        time.sleep(_PLAIN_POLL_S)


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
