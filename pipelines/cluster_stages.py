"""The stages of a run on a cluster: the table of stages, filled from KFP's tasks and from MLflow's last metrics."""

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.errors import ConfigurationError
from components.runs.kfp_tasks import Task
from components.runs.rows import StageRow
from components.runs.tracked_stages import TrackedStage
from pipelines.preset_files import validate
from pipelines.stages import Place, Stage, training_stages

_OPENING = "open-run"
_OVER = ("SUCCEEDED", "SKIPPED")
_TROUBLE = ("failed", "queued", "running")


@dataclass(frozen=True)
class PlannedTask:
    """A task of a compiled pipeline.

    Attributes:
        stage: Name of the stage that it does, or does a part of.
        path: Names of the DAGs that it lies in, and its own.
        turns: How often the loops around it make it; 1 outside of loops.
        component: Name of its component, by which KFP's local runner calls it.
    """

    stage: str
    path: tuple[str, ...]
    turns: int = 1
    component: str = ""


@dataclass(frozen=True)
class Plan:
    """What a compiled pipeline will do.

    Attributes:
        tasks: Its tasks.
        stages: Names of its stages, in the order in which people see them.
        unlisted: Those of them that are shown only when they need attention.
        trainings: Those of them whose task may submit a job and follow it.
    """

    tasks: tuple[PlannedTask, ...]
    stages: tuple[str, ...]
    unlisted: frozenset[str] = frozenset()
    trainings: frozenset[str] = frozenset()


def plan(specification: Mapping[str, Any]) -> Plan:
    """Read from a compiled pipeline which task does which stage.

    Args:
        specification: KFP's `PipelineSpec`.
    """
    found = tuple(_tasks(specification, specification["root"], (), 1))
    names = list(dict.fromkeys(task.stage for task in found))
    table = _table(specification)
    order = [name for name in table if name in names] + [name for name in names if name not in table]
    return Plan(
        found,
        tuple(order),
        unlisted=frozenset(name for name, stage in table.items() if not stage.listed),
        trainings=frozenset(name for name, stage in table.items() if stage.place is Place.TRAINING),
    )


def plan_of_tasks(tasks: Sequence[Task]) -> Plan:
    """Return what a run did whose compiled pipeline is gone: its tasks by their own names."""
    paths = dict.fromkeys(task.path for task in sorted(tasks, key=lambda task: str(task.started)) if task.nodes)
    found = tuple(PlannedTask("/".join(path[1:] or path), path) for path in paths)
    return Plan(found, tuple(task.stage for task in found))


def stage_rows(
    planned: Plan, tasks: Sequence[Task], run_state: str, tracked: Mapping[str, TrackedStage], now: datetime.datetime
) -> list[StageRow]:
    """Return a row for each stage of a run.

    Args:
        planned: What the run's pipeline does.
        tasks: What KFP tells of its tasks.
        run_state: How the run stands: "succeeded", "failed", "cancelled", or another word while it is not over.
        tracked: What MLflow knows of its stages.
        now: The present time, UTC.
    """
    at = {(task.path, task.turn): task for task in tasks}
    rows = []
    for stage in planned.stages:
        own = [task for task in planned.tasks if task.stage == stage]
        row = _with_tracked(_row(stage, own, at, run_state, now), tracked.get(stage))
        if stage not in planned.unlisted or row.state in _TROUBLE:
            rows.append(row)
    return rows


def stage_pods(planned: Plan, tasks: Sequence[Task], stage: str) -> list[Task]:
    """Return the tasks of a stage that had a pod, those that began first coming first."""
    paths = {task.path for task in planned.tasks if task.stage == stage}
    return sorted((task for task in tasks if task.path in paths and task.nodes), key=lambda task: str(task.started))


def _tasks(
    specification: Mapping[str, Any], component: Mapping[str, Any], path: tuple[str, ...], turns: int
) -> Iterator[PlannedTask]:
    for name, task in component["dag"]["tasks"].items():
        inner = specification["components"][task["componentRef"]["name"]]
        items = task.get("parameterIterator", {}).get("items", {}).get("raw")
        times = turns * (len(json.loads(items)) if items else 1)
        if "dag" in inner:
            yield from _tasks(specification, inner, (*path, name), times)
        else:
            given = task.get("inputs", {}).get("parameters", {}).get("stage", {}).get("runtimeValue", {})
            called = _component(task)
            # What opens and closes a run is not told its stage.
            yield PlannedTask(given.get("constant") or called.replace("-", "_"), (*path, name), times, called)


def _component(task: Mapping[str, Any]) -> str:
    return str(task["componentRef"]["name"]).removeprefix("comp-")


def _table(specification: Mapping[str, Any]) -> dict[str, Stage]:
    """Return the rows of the table of stages by their names; of another version's settings none."""
    for component in (specification["root"], *specification["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            if _component(task) == _OPENING:
                given = task["inputs"]["parameters"]["config"]["runtimeValue"]["constant"]
                try:
                    config = validate(given, "this pipeline's preset")
                except ConfigurationError:
                    return {}
                return {stage.name: stage for stage in training_stages(config)}
    return {}


def _row(
    stage: str,
    planned: Sequence[PlannedTask],
    tasks: Mapping[tuple[tuple[str, ...], tuple[int, ...]], Task],
    run_state: str,
    now: datetime.datetime,
) -> StageRow:
    own = [task for (path, _), task in tasks.items() if any(path == one.path for one in planned)]
    begun = [task for task in own if task.state]
    expected = sum(task.turns for task in planned)
    state = _state(begun, expected, run_state)
    if state == "waiting" and _passed_over(planned, tasks):
        state = "reused"
    started = [task.started for task in begun if task.started is not None]
    ended = [task.ended or now for task in begun]
    seconds = (max(ended) - min(started)).total_seconds() if started else 0.0
    if run_state == "succeeded" and any(task.ended is None for task in begun):
        seconds = 0.0  # KFP's last look at it was too early
    side_by_side = sum(task.turns for task in planned if task.turns > 1)
    paths = {task.path for task in planned if task.turns > 1}
    over = side_by_side if state in ("done", "reused") else sum(t.path in paths and t.state in _OVER for t in begun)
    return StageRow(
        stage,
        state,
        seconds=max(0.0, seconds),
        parts=(over, side_by_side) if side_by_side else None,
        tries=max([task.tries for task in begun], default=1) or 1,
    )


def _state(begun: Sequence[Task], expected: int, run_state: str) -> str:
    """Return the state of a stage by those of its tasks that have begun."""
    states = [task.state for task in begun]
    if run_state == "succeeded":
        return "reused" if states and set(states) == {"SKIPPED"} else "done"
    over = run_state in ("failed", "cancelled")
    unfinished = any(state not in _OVER for state in states)
    if not states:
        return "not reached" if over else "waiting"
    if "FAILED" in states and run_state != "cancelled":
        return "failed"
    if over and (unfinished or len(states) < expected):
        return "interrupted"
    if not unfinished and len(states) >= expected:
        return "reused" if set(states) == {"SKIPPED"} else "done"
    return "queued" if unfinished and set(states) <= {"PENDING", *_OVER} else "running"


def _passed_over(planned: Sequence[PlannedTask], tasks: Mapping[tuple[tuple[str, ...], tuple[int, ...]], Task]) -> bool:
    """Tell whether a DAG around a stage was skipped: its result was there."""
    around = {task.path[:depth] for task in planned for depth in range(1, len(task.path))}
    return any(task.path in around and task.state == "SKIPPED" for task in tasks.values())


def _with_tracked(row: StageRow, tracked: TrackedStage | None) -> StageRow:
    """Return a row with what MLflow knows besides."""
    if tracked is None:
        return row
    if row.state == "running" and tracked.running and tracked.step:
        return replace(
            row,
            activity="training",
            unit="steps",
            done=tracked.step,
            total=tracked.steps,
            rate=tracked.steps_per_s,
            left_s=tracked.left_s,
            fields=tracked.shown,
        )
    if row.state in ("done", "reused"):
        return replace(row, state="reused" if tracked.reused else row.state, seconds=row.seconds or tracked.seconds)
    if row.state == "failed":
        return replace(row, message=tracked.error)
    return row
