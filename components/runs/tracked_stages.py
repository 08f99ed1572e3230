"""How far the stages of a run are, by what they have logged to MLflow: for runs whose volume is not here."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.runs.mlflow import find_tracked_run
from components.tracking.client import as_stage_error, connect
from components.tracking.tags import ERROR_TAG, PARENT_TAG, REUSED_TAG, STAGE_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

_SHOWN_METRICS = {"loss": "loss", "samples_per_s": "samples/s"}
_STEPS, _BATCH = "recipe.iterations", "recipe.global_batch_size"  # parameters of a training


@dataclass(frozen=True)
class TrackedStage:
    """A stage as MLflow has it.

    Attributes:
        running: MLflow has not been told that it ended.
        reused: Its folder was finished before.
        seconds: How long it took or has taken, the tries before included.
        error: Why it failed.
        step: Last step that was logged; 0 for a stage that is no training.
        steps: Steps in all; None where that is not known.
        steps_per_s: Steps per second.
        left_s: Seconds left, by the last step's time; None where that can't be told.
        shown: Its last metrics that people watch, by the names that they see.
    """

    running: bool
    reused: bool = False
    seconds: float = 0.0
    error: str = ""
    step: int = 0
    steps: int | None = None
    steps_per_s: float = 0.0
    left_s: float | None = None
    shown: tuple[tuple[str, float], ...] = ()


def tracked_stages(tracking_uri: str, run_id: str) -> dict[str, TrackedStage]:
    """Return the stages of a pipeline run by name, the newest one of each; none where MLflow does not know the run.

    Args:
        tracking_uri: MLflow tracking URI.
        run_id: Identifier of the pipeline run.

    Raises:
        StageError: MLflow can't be asked.
    """
    client = connect(tracking_uri)
    with as_stage_error(tracking_uri):
        pipeline_run = find_tracked_run(client, run_id)
        if pipeline_run is None or pipeline_run.run_id != run_id:
            return {}
        nested = client.search_runs(
            [pipeline_run.entity.info.experiment_id],
            f"tags.`{PARENT_TAG}` = '{pipeline_run.mlflow_run_id}'",
            order_by=["start_time DESC"],
        )
    stages: dict[str, TrackedStage] = {}
    for run in nested:
        if stage := run.data.tags.get(STAGE_TAG):
            stages.setdefault(stage, _stage(run))
    return stages


def _stage(run: "Run") -> TrackedStage:
    info, data = run.info, run.data
    running = str(info.status) == "RUNNING"
    ended = time.time() if running or not info.end_time else info.end_time / 1000
    metrics = {metric.key: metric for metric in data.to_proto().metrics}
    loss = metrics.get("loss")
    step = int(loss.step) if loss is not None else 0
    steps = int(float(data.params[_STEPS])) if _STEPS in data.params else None
    batch = float(data.params.get(_BATCH, 0))
    rate = metrics["samples_per_s"].value / batch if batch and "samples_per_s" in metrics else 0.0
    left = None
    if running and steps is not None and loss is not None and rate > 0:
        left = max(0.0, (steps - step) / rate - (time.time() - loss.timestamp / 1000))
    return TrackedStage(
        running=running,
        reused=data.tags.get(REUSED_TAG) == "true",
        seconds=max(0.0, ended - info.start_time / 1000),
        error=data.tags.get(ERROR_TAG, ""),
        step=step,
        steps=steps,
        steps_per_s=rate,
        left_s=left,
        shown=tuple((name, metrics[key].value) for key, name in _SHOWN_METRICS.items() if key in metrics),
    )
