"""How long a run of this machine will still take: what each stage took elsewhere, corrected by what this run shows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from components.runs.rows import FINISHED_STAGE, StageRow
from pipelines.config import RunConfig, TrainingStage
from pipelines.stages import training_stages

_RANDOM = "random://"
_TRAININGS = get_args(TrainingStage)
_START_S = 1.0
"""Seconds before a stage begins: a process, and what it imports."""

# Seconds on two quiet cores with the laptop preset; by the first part of the stage's name. Another machine shows in minutes how
# much faster or slower it is.
_STAGE_S = {
    "open_run": 8.0,
    "download": 10.0,
    "wds_conversion": 17.0,
    "energon_split": 3.0,
    "weight_conversion": 3.0,
    "combine": 2.0,
    "generate": 5.0,
    "evaluate": 5.0,
    "report": 1.0,
    "export": 5.0,
}
_TRAINING_START_S = 8.0
_SAMPLE_S = {"pretrain": 0.0085, "sft": 0.0078}

_TRUST_S = 10.0
"""What was measured counts for as much as what was expected when it covers this many seconds."""


@dataclass(frozen=True)
class Forecast:
    """What is left of a run.

    Attributes:
        seconds: About how long it will still take.
        at_most: All work so far was found finished, and more of it may be.
    """

    seconds: float
    at_most: bool

    def __str__(self) -> str:
        """As people say it."""
        minutes = round(self.seconds / 60)
        if minutes < 1:
            return "less than a minute left"
        text = f"{minutes} min" if minutes < 90 else f"{self.seconds / 3600:.1f} h"
        return f"{'at most ' if self.at_most else ''}about {text} left"


def expected_seconds(config: RunConfig) -> dict[str, float]:
    """Return about how long each stage of a run takes on two cores, in the order of the DAG.

    Empty for models that are not drawn by their settings: how large those are is known when they are here.
    """
    if {config.weights.language_source, config.weights.vision_source} != {_RANDOM}:
        return {}
    return {stage.name: _expected(config, stage.name) for stage in training_stages(config) if stage.listed}


def _expected(config: RunConfig, stage: str) -> float:
    room = stage.partition("/")[0]
    if room in _SAMPLE_S:
        recipe = getattr(config, room).recipe
        return _START_S + _TRAINING_START_S + _SAMPLE_S[room] * recipe.iterations * recipe.global_batch_size
    return _START_S + _STAGE_S.get(room, 0.0)


def forecast(rows: Sequence[StageRow], expected: Mapping[str, float], elapsed_s: float) -> Forecast | None:
    """Return what is left of a run, or None where nothing is known of its stages.

    Args:
        rows: Its stages as they stand.
        expected: What `expected_seconds` gave for it.
        elapsed_s: Seconds since it was started.
    """
    if not expected or any(row.stage not in expected for row in rows):
        return None
    trainings = [row for row in rows if row.stage in _TRAININGS]
    others = [row for row in rows if row.stage not in _TRAININGS]
    pace = _pace_of_others(others, expected, elapsed_s - sum(row.seconds for row in trainings if row.state != "reused"))
    training_pace = _pace_of_trainings(trainings, expected) or pace
    seconds = sum(_left(row, expected[row.stage], pace) for row in others)
    seconds += sum(_left(row, expected[row.stage], training_pace) for row in trainings)
    finished = [row.state for row in rows[1:] if row.state in FINISHED_STAGE]  # every run is opened anew
    running = any(row.state == "running" for row in trainings)
    return Forecast(seconds, at_most="reused" in finished and "done" not in finished and not running)


def _pace_of_others(rows: Iterable[StageRow], expected: Mapping[str, float], took_s: float) -> float:
    """Return how many times as long as expected the finished stages that don't train took."""
    rows = list(rows)
    took_s -= sum(row.seconds for row in rows if row.state == "running")
    took_s -= _START_S * sum(row.state == "reused" for row in rows)
    due_s = sum(expected[row.stage] for row in rows if row.state == "done")
    return (max(took_s, 0.0) + _TRUST_S) / (due_s + _TRUST_S) if due_s else 1.0


def _pace_of_trainings(rows: Iterable[StageRow], expected: Mapping[str, float]) -> float:
    """Return how many times as long as expected trainings take; 0 before one has begun."""
    took_s = due_s = 0.0
    for row in rows:
        if row.state == "done" or (row.state == "running" and row.left_s is not None):
            took_s += row.seconds + (row.left_s or 0.0)
            due_s += expected[row.stage]
    return took_s / due_s if due_s else 0.0


def _left(row: StageRow, expected_s: float, pace: float) -> float:
    if row.state == "waiting":
        return expected_s * pace
    if row.state != "running":
        return 0.0
    if row.stage in _TRAININGS and row.left_s is not None:
        return row.left_s
    return max(expected_s * pace - row.seconds, 0.0)
