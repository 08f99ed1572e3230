"""What is known of a stage of a run, wherever the run is: a line of every screen."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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


def merged(first: StageRow, second: StageRow) -> StageRow:
    """Return one row for the partitions of a stage: the one that needs attention, else the later one."""
    worst, other = sorted((first, second), key=_badness)
    return replace(worst, seconds=max(worst.seconds, other.seconds))


def _badness(row: StageRow) -> int:
    return _WORST_FIRST.index(row.state) if row.state in _WORST_FIRST else len(_WORST_FIRST)
