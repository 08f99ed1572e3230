"""Tracking with a real MLflow server that goes away and comes back."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from pydantic import BaseModel

from components.context import RunContext
from components.stage.runner import StageWork, run_stage
from components.tracking.client import connect
from components.tracking.journal import tracking_folder
from components.tracking.pipeline_run import finish_pipeline_run, open_pipeline_run
from components.tracking.sender import SENDER_VARIABLE, sender_process
from tests.support.mlflow_server import MlflowServer
from tests.support.waiting import wait_for

STEPS = range(1, 41)


class Settings(BaseModel):
    steps: int = 40


@pytest.fixture(scope="module")
def server(tracking_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(tracking_database, folder / "server.db")
    server = MlflowServer(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def context(server: MlflowServer, tmp_path: Path) -> RunContext:
    run = open_pipeline_run(
        server.uri, "away", tmp_path.name, tmp_path.name, tmp_path, {"lr": 1}, source="vlm-training"
    )
    return RunContext(
        run_id=tmp_path.name,
        run_name="r",
        workspace=tmp_path,
        tracking_uri=server.uri,
        experiment="away",
        mlflow_run_id=run,
    )


def train(context: RunContext, stage: str = "pretrain", lost: MlflowServer | None = None) -> None:
    """Log forty points and a picture; the server is killed after half of them."""

    def body(work: StageWork) -> Mapping[str, Any]:
        for step in STEPS:
            if lost is not None and step == len(STEPS) // 2:
                lost.kill()
            work.tracker.log_metrics({"loss": 1.0 / step}, step)
        (work.folder / "curves.svg").write_text("<svg/>")
        work.tracker.log_artifact(work.folder / "curves.svg")
        return {"step": len(STEPS)}

    run_stage(context, stage=stage, version=1, inputs={}, settings=Settings(), body=body, makes_model=True)


def stage_run(client: MlflowClient, context: RunContext, stage: str) -> Run:
    experiment = client.get_experiment_by_name("away").experiment_id
    (run,) = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{context.mlflow_run_id}' and tags.`vlm.stage` = '{stage}'"
    )
    return run


def curve(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]


def test_nothing_is_lost_while_the_server_is_away(
    server: MlflowServer, context: RunContext, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = [(step, 1.0 / step) for step in STEPS]
    train(context, "pretrain", lost=server)  # dies in mid-training
    assert f"What is logged is kept in {tracking_folder(context.workspace, context.run_id)}" in capsys.readouterr().out
    train(context, "sft")  # begins and ends while it is away
    server.start()
    train(context, "report")
    client = connect(server.uri)
    for stage in ("pretrain", "sft", "report"):
        run = stage_run(client, context, stage)
        assert run.info.status == "FINISHED"
        assert curve(client, run.info.run_id, "loss") == expected
        assert curve(client, context.mlflow_run_id, f"{stage}.loss") == expected
        assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["curves.svg"]
        assert [item.path for item in client.list_artifacts(context.mlflow_run_id, stage)] == [f"{stage}/curves.svg"]
        assert run.data.tags["mlflow.source.name"] == f"vlm-training, {stage}"
        assert len(run.outputs.model_outputs) == 1
        assert run.info.end_time - run.info.start_time < 60_000  # when it ended, not when MLflow heard of it


def test_end_of_a_run_that_nobody_heard_is_told_by_the_next_run(server: MlflowServer, context: RunContext) -> None:
    server.kill()
    train(context)
    finish_pipeline_run(context, "FINISHED")
    server.start()
    client = connect(server.uri)
    assert client.get_run(context.mlflow_run_id).info.status == "RUNNING"
    run = open_pipeline_run(server.uri, "away", "next", "next", context.workspace, {})
    following = context.model_copy(update={"run_id": "next", "mlflow_run_id": run})
    train(following, "download")
    assert stage_run(client, following, "download").info.status == "FINISHED"
    assert client.get_run(context.mlflow_run_id).info.status == "RUNNING"  # no stage looks through all runs
    finish_pipeline_run(following, "FINISHED")
    assert client.get_run(context.mlflow_run_id).info.status == "FINISHED"
    assert stage_run(client, context, "pretrain").info.status == "FINISHED"


def test_one_process_sends_for_all_stages_while_they_run(
    server: MlflowServer, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SENDER_VARIABLE, "a test")
    client = connect(server.uri)

    def body(work: StageWork) -> Mapping[str, Any]:
        work.tracker.log_metrics({"loss": 0.5}, step=1)
        wait_for(lambda: "pretrain.loss" in client.get_run(context.mlflow_run_id).data.metrics, look_s=0.2)
        return {}

    with sender_process(context.workspace, context.run_id):
        run_stage(context, stage="pretrain", version=1, inputs={}, settings=Settings(), body=body)
        finish_pipeline_run(context, "FINISHED")
    assert stage_run(client, context, "pretrain").info.status == "FINISHED"
    assert client.get_run(context.mlflow_run_id).info.status == "FINISHED"
