"""What is known of a stage of a run, wherever the run is: a line of every screen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.progress import PARTS

FINISHED_STAGE = ("done", "reused")  # states of a stage that left what it should
_WORST_FIRST = ("failed", "running", "queued", "interrupted", "done", "reused")


@dataclass(frozen=True)
class StageRow:
    """What is known of one stage of a run.

    Attributes:
        stage: Stage name.
        state: "waiting" (for other stages), "queued" (for a pod), "running", "done", "reused", "failed", "interrupted", or
            "not reached" when the run ended before it.
        key: Key of its stage folder; empty while it has none, for the opening of the run, and for a run of a cluster.
        folder: Its stage folder, or None while it has none here.
        began: When it began, in seconds since the epoch; 0 where that is not known here.
        seconds: How long it took or has taken.
        activity: What it is doing.
        unit: Name of one unit of the activity.
        done: Units finished.
        total: Units in all, if known.
        rate: Units per second.
        left_s: Seconds left of the activity, if known.
        fields: Other numbers that the stage shows (a loss).
        message: Why it failed, or what it waits for.
        parts: How many tasks do it side by side, and how many of them are over; None where it is one task.
        tries: How often it was started.
    """

    stage: str
    state: str = "waiting"
    key: str = ""
    folder: Path | None = None
    began: float = 0.0
    seconds: float = 0.0
    activity: str = ""
    unit: str = ""
    done: int = 0
    total: int | None = None
    rate: float = 0.0
    left_s: float | None = None
    fields: tuple[tuple[str, Any], ...] = ()
    message: str = ""
    parts: tuple[int, int] | None = None
    tries: int = 1


def merged(rows: Sequence[StageRow], tasks: int, over: bool) -> StageRow:
    """Return one row for the tasks of a stage: that of the one that needs attention, with how many are over.

    Args:
        rows: One for each task that has begun, at least one. Those of parts that another task joins are named `<stage>/parts`.
        tasks: How many tasks do the stage side by side, as far as that is known.
        over: The run has ended.
    """
    newest_first = sorted(rows, key=lambda row: (row.stage.endswith(PARTS), -row.began))
    worst = min(newest_first, key=_badness)
    stage = worst.stage.removesuffix(PARTS)
    joined = newest_first[-1].stage.endswith(PARTS)
    side_by_side = [row for row in rows if row.stage.endswith(PARTS) == joined]
    tasks = max(tasks, len(side_by_side))
    if worst.state in FINISHED_STAGE and len(rows) < tasks + joined:
        worst = StageRow(stage, "interrupted" if over else "running")  # between two tasks
    began = min(row.began for row in rows)
    return replace(
        worst,
        stage=stage,
        began=began,
        seconds=max(row.began + row.seconds for row in rows) - began,
        parts=(sum(row.state in FINISHED_STAGE for row in side_by_side), tasks) if tasks > 1 else None,
    )


def _badness(row: StageRow) -> int:
    return _WORST_FIRST.index(row.state) if row.state in _WORST_FIRST else len(_WORST_FIRST)
