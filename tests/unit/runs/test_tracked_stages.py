"""How far stages are, by a real MLflow store."""

from pathlib import Path

import pytest

from components.context import RunContext
from components.errors import StageError
from components.runs.tracked_stages import TrackedStage, tracked_stages
from components.tracking.pipeline_run import open_pipeline_run
from components.tracking.sender import Sender
from components.tracking.tracker import stage_tracker

TRAINING = {"recipe": {"iterations": 400, "global_batch_size": 32}}


@pytest.fixture
def context(tmp_path: Path, tracking_uri: str, tracking_workspace: Path) -> RunContext:
    run_id = f"{tmp_path.name}-tracked"
    mlflow_run_id = open_pipeline_run(tracking_uri, "tracked", "name", run_id, tracking_workspace, {})
    return RunContext(
        run_id=run_id,
        run_name="name",
        workspace=tmp_path,
        tracking_uri=tracking_uri,
        experiment="tracked",
        mlflow_run_id=mlflow_run_id,
    )


def stages(context: RunContext) -> dict[str, TrackedStage]:
    """Send what was logged, and return what MLflow has."""
    assert Sender(context.workspace, context.run_id).send()
    return tracked_stages(context.tracking_uri, context.run_id)


def test_a_training_tells_steps_rate_loss_and_time_left(context: RunContext) -> None:
    with stage_tracker(context, "sft", "k", TRAINING) as tracker:
        assert stages(context)["sft"].step == 0
        for step in (100, 120):
            tracker.log_metrics({"loss": 2.0 + step / 1000, "samples_per_s": 64.0}, step)
        found = stages(context)["sft"]
        assert (found.running, found.step, found.steps, found.steps_per_s) == (True, 120, 400, 2.0)
        assert found.shown == (("loss", 2.12), ("samples/s", 64.0))
        assert found.left_s is not None
        assert 100 < found.left_s <= 140
    done = stages(context)["sft"]
    assert (done.running, done.left_s, done.error) == (False, None, "")


def test_what_failed_says_why_and_what_was_reused_says_so(context: RunContext, tmp_path: Path) -> None:
    with pytest.raises(StageError), stage_tracker(context, "evaluate/vqa", "e", {}):
        raise StageError("no predictions")
    with stage_tracker(context, "combine", "c", {}) as tracker:
        tracker.log_reused(tmp_path, {})
    found = stages(context)
    assert (found["evaluate/vqa"].error, found["combine"].reused) == ("no predictions", True)
    assert found["combine"].steps is None


def test_a_stage_that_is_tried_again_runs_again(context: RunContext) -> None:
    with pytest.raises(StageError), stage_tracker(context, "combine", "c", {}):
        raise StageError("node lost")
    assert not stages(context)["combine"].running
    with stage_tracker(context, "combine", "c", {}):
        found = stages(context)["combine"]
        assert (found.running, found.error) == (True, "")


def test_a_run_that_mlflow_does_not_know_has_no_stages(context: RunContext) -> None:
    assert tracked_stages(context.tracking_uri, "another") == {}
    assert tracked_stages(context.tracking_uri, context.run_id[:-2]) == {}  # the beginning of an id is another run's
