"""Where the time of a run of this machine went, from what it left in its folder.

    python -m tests.benchmarks.run_profile WORKSPACE/runs/RUN

Prints two Markdown tables. The first has a line for every task: how long its process took to come to its stage (start, imports), how
long the stage worked (with the checksums of what it wrote), how long the process took to end, and what ran beside it. The second has
a line for every training: until its first step, its steps and what of them waited for data, what lies between the steps
(validation, what the model says, checkpoints), and what follows the last one. What a step itself consists of is measured by
`tests.benchmarks.step_profile`.
"""

import argparse
import datetime
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.progress import progress_folder
from components.runs.folder import RunFolder
from components.stage.manifest import MANIFEST_NAME, read_manifest
from components.tracking.journal import journal_folder, read_entries
from components.tracking.metrics_file import METRICS_FILE, read_metrics

_DAY_S = 24 * 3600.0
_TASK = re.compile(r"(\d+):(\d+):(\d+\.\d+) - INFO - (Executing task|Task) (?:\x1b\[\d+m)?'([^']+)'(.*)")


@dataclass(frozen=True)
class Task:
    """A task of KFP's local runner; seconds since 1970."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Work:
    """A stage's own time within its task.

    Attributes:
        stage: The stage.
        folder: Its folder; the run's for a task that has none.
        began: Seconds since 1970.
        seconds: How long it worked; of a stage that was finished before, how long it took to find that.
        recipe: A training's settings; empty for other stages.
    """

    stage: str
    folder: Path
    began: float
    seconds: float
    recipe: dict[str, Any]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder: WORKSPACE/runs/RUN")
    path: Path = parser.parse_args().run.resolve()
    run = RunFolder(path.parent.parent, path.name)
    if "ended" not in run.record() or not run.log.is_file():
        parser.error(f"{path} is not the folder of a run of this machine that has ended")
    print("\n".join([*stage_table(run), "", *training_table(run)]))


def stage_table(run: RunFolder) -> list[str]:
    """Return the lines of the table of tasks, with what lies before the first and behind the last."""
    record = run.record()
    opened = datetime.datetime.fromisoformat(record["started"]).timestamp()
    closed = datetime.datetime.fromisoformat(record["ended"]).timestamp()
    tasks = list(_tasks(run, opened))
    found = {task: _work_of(task, list(_works(run))) for task in tasks}
    rows = ["| stage | at | start-up | work | end | beside it |", "|---|---|---|---|---|---|"]
    rows.append(f"| (compiling, KFP) | 0.0 | {tasks[0].start - opened:.1f} | | | |")
    sums = [tasks[0].start - opened, 0.0, closed - tasks[-1].end]
    for task, work in found.items():
        parts = (task.end - task.start, 0.0, 0.0)  # a task without a stage, such as the gate, is all start-up
        if work is not None:
            parts = (work.began - task.start, work.seconds, task.end - work.began - work.seconds)
        sums = [whole + part for whole, part in zip(sums, parts, strict=True)]
        beside = [other.name for other in tasks if other != task and other.start < task.end and task.start < other.end]
        cells = " | ".join(f"{part:.1f}" for part in parts)
        name = work.stage if work is not None else task.name
        rows.append(f"| {name} | {task.start - opened:.1f} | {cells} | {', '.join(beside)} |")
    rows.append(
        f"| (MLflow's rest, processes' ends) | {tasks[-1].end - opened:.1f} | | | {closed - tasks[-1].end:.1f} | |"
    )
    rows.append(f"| all: {closed - opened:.1f} | | {' | '.join(f'{part:.1f}' for part in sums)} | |")
    return rows


def training_table(run: RunFolder) -> list[str]:
    """Return the lines of the table of trainings; what needs the tracking's journal is empty without it."""
    rows = [
        "| training | until the first step | steps | of them waiting for data | between steps | behind the last |",
        "|---|---|---|---|---|---|",
    ]
    for work in _works(run):
        path = work.folder / METRICS_FILE
        if not path.is_file():
            continue
        spans = [(_span(row, work.recipe), row) for row in read_metrics(path) if "samples_per_s" in row]
        steps = sum(span for span, _ in spans)
        waited = sum(span * row["data_wait_share"] for span, row in spans)
        journal = journal_folder(run.workspace, run.run_id, work.stage, work.folder.name)
        logged = [entry.time_ms / 1000 for entry in read_entries(journal, {}) if entry.kind == "metrics"]
        before = between = behind = ""
        if logged:
            first = logged[0] - spans[0][0]
            before, behind = f"{first - work.began:.1f}", f"{work.began + work.seconds - logged[-1]:.1f}"
            between = f"{logged[-1] - first - steps:.1f}"
        rows.append(f"| {work.stage} | {before} | {steps:.1f} | {waited:.1f} | {between} | {behind} |")
    return rows


def _span(row: dict[str, Any], recipe: dict[str, Any]) -> float:
    """Return the seconds of the steps that a row of metrics is about."""
    steps = (row["step"] - 1) % recipe["log_interval"] + 1
    return float(steps * recipe["global_batch_size"] / row["samples_per_s"])


def _tasks(run: RunFolder, opened: float) -> Iterator[Task]:
    """Yield the tasks in the order in which they ended; the log has the time of the day alone."""
    midnight = datetime.datetime.fromtimestamp(opened).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    started: dict[str, float] = {}
    last = 0.0
    for line in run.log.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _TASK.match(line)
        if match is None:
            continue
        hours, minutes, seconds, what, name, rest = match.groups()
        now = midnight + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        while now < last - _DAY_S / 2:
            now += _DAY_S
        last = now
        if what == "Executing task":
            started[name] = now
        elif "finished with status" in rest:
            yield Task(name, started.pop(name), now)


def _works(run: RunFolder) -> Iterator[Work]:
    for path in sorted(progress_folder(run.workspace, run.run_id).glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        folder = run.workspace / record["stage"] / path.stem.rpartition("-")[2]
        seconds, recipe = record["updated"] - record["began"], {}
        if record["state"] == "done" and (folder / MANIFEST_NAME).is_file():
            manifest = read_manifest(folder)
            seconds, recipe = manifest.duration_s, manifest.settings
        yield Work(record["stage"], folder, record["began"], seconds, recipe)


def _work_of(task: Task, works: Sequence[Work]) -> Work | None:
    """Return the stage's work that a task did: of its kind, and begun while it ran; of several the first."""
    kind = re.compile(rf"{re.escape(task.name.partition('-')[0])}")
    fitting = [work for work in works if kind.match(work.stage) and task.start <= work.began <= task.end]
    return min(fitting, key=lambda work: work.began, default=None)


if __name__ == "__main__":
    main()
