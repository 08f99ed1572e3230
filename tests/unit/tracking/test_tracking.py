"""Tracking against a real MLflow store."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from pydantic import BaseModel

from components.context import RunContext
from components.errors import InputError, StageError
from components.stage.runner import StageWork, run_stage
from components.tracking.client import connect
from components.tracking.journal import journal_folder
from components.tracking.pipeline_run import close_pipeline_run, finish_pipeline_run, open_pipeline_run
from components.tracking.sender import SENDER_VARIABLE, Sender
from components.tracking.sending import mlflow_run_of
from components.tracking.tags import REUSED_TAG
from components.tracking.tracker import StageTracker, flatten, stage_tracker
from tests.support.paths import ROOT


class Settings(BaseModel):
    steps: int = 3
    inner: dict[str, int] = {"width": 8}


@pytest.fixture
def client(tracking_uri: str) -> MlflowClient:
    return connect(tracking_uri)


@pytest.fixture
def context(tracking_uri: str, tracking_workspace: Path, tmp_path: Path) -> RunContext:
    return opened(tracking_uri, tracking_workspace, tmp_path, tmp_path.name)


def opened(uri: str, home: Path, workspace: Path, run_id: str) -> RunContext:
    run = open_pipeline_run(
        uri, "tests", f"run {run_id}", run_id, home, {"pretrain": {"lr": 0.1}, "seeds": [1, 2]}, "abc"
    )
    return RunContext(
        run_id=run_id, run_name="r", workspace=workspace, tracking_uri=uri, mlflow_run_id=run, git_commit="abc"
    )


def train(work: StageWork) -> Mapping[str, Any]:
    rows = [{"step": step, "loss": 1.0 / step} for step in (1, 2, 3)]
    for row in rows:
        work.tracker.log_metrics({"loss": row["loss"]}, step=int(row["step"]))
    (work.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (work.folder / "curves.svg").write_text("<svg/>")
    (work.folder / "notes.txt").write_text("notes")
    work.tracker.log_artifact(work.folder / "curves.svg")
    work.tracker.log_artifact(work.folder / "notes.txt")
    return {"loss": 9.0, "samples": 12, "speed": {"tokens": 5.5}, "finished": True, "who": "me"}


def run_training(context: RunContext) -> bool:
    return run_stage(context, stage="pretrain", version=1, inputs={}, settings=Settings(), body=train).reused


def stage_runs(client: MlflowClient, context: RunContext) -> list[Run]:
    experiment = client.get_experiment_by_name("tests").experiment_id
    return list(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{context.mlflow_run_id}'"))


def mlflow_run(context: RunContext, stage: str) -> str:
    return mlflow_run_of(journal_folder(context.workspace, context.run_id, stage, "k"))


def points(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, name))


def test_stage_is_a_nested_run_with_curves_facts_and_artifacts(client: MlflowClient, context: RunContext) -> None:
    assert not run_training(context)
    (run,) = stage_runs(client, context)
    parent = client.get_run(context.mlflow_run_id)
    assert (run.info.run_name, run.info.status) == ("pretrain", "FINISHED")
    assert run.data.params["inner.width"] == "8"
    assert points(client, run.info.run_id, "loss") == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert run.data.metrics["samples"] == 12
    assert run.data.metrics["speed.tokens"] == 5.5
    assert "finished" not in run.data.metrics
    assert points(client, context.mlflow_run_id, "pretrain.loss") == points(client, run.info.run_id, "loss")
    assert parent.data.metrics["pretrain.samples"] == 12
    assert parent.data.params == {"pretrain.lr": "0.1", "seeds": "[1, 2]"}
    assert parent.data.tags["mlflow.source.git.commit"] == "abc"
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"curves.svg", "notes.txt"}
    assert [item.path for item in client.list_artifacts(context.mlflow_run_id, "pretrain")] == ["pretrain/curves.svg"]


def test_artifacts_lie_in_the_workspace(client: MlflowClient, context: RunContext, tracking_workspace: Path) -> None:
    run = client.get_run(context.mlflow_run_id)
    assert run.info.artifact_uri.startswith((tracking_workspace / "mlartifacts").as_uri())


def test_reused_stage_replays_its_curves(
    client: MlflowClient, context: RunContext, tracking_uri: str, tracking_workspace: Path, tmp_path: Path
) -> None:
    run_training(context)
    (first,) = stage_runs(client, context)
    again = opened(tracking_uri, tracking_workspace, tmp_path, f"{tmp_path.name}-again")
    assert run_training(again)
    assert not stage_runs(client, again)  # left to the next sender: the run's end, here
    finish_pipeline_run(again, "FINISHED")
    (second,) = stage_runs(client, again)
    assert (second.info.status, client.get_run(again.mlflow_run_id).info.status) == ("FINISHED", "FINISHED")
    assert second.data.tags[REUSED_TAG] == "true"
    assert points(client, second.info.run_id, "loss") == points(client, first.info.run_id, "loss")
    assert points(client, again.mlflow_run_id, "pretrain.loss") == points(client, first.info.run_id, "loss")
    assert second.data.metrics == first.data.metrics


def test_replay_thins_long_curves_and_keeps_the_last_point(
    client: MlflowClient, context: RunContext, tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "loss": {step}}}\n' for step in range(1, 2502)))
    with stage_tracker(context, "sft", "k", {}) as tracker:
        tracker.log_reused(tmp_path, {})
    finish_pipeline_run(context, "FINISHED")
    curve = points(client, mlflow_run(context, "sft"), "loss")
    assert 800 < len(curve) < 1002
    assert curve[-1] == (2501, 2501.0)


def test_failed_stage_fails_its_run_and_leaves_the_pipelines_end_to_the_pipeline(
    client: MlflowClient, context: RunContext
) -> None:
    def body(work: StageWork) -> Mapping[str, Any]:
        work.tracker.log_metrics({"loss": 2.0}, step=1)
        raise InputError("the dataset has no pictures")

    with pytest.raises(InputError):
        run_stage(context, stage="combine", version=1, inputs={}, settings=Settings(), body=body)
    (run,) = stage_runs(client, context)
    assert run.info.status == "FAILED"
    assert run.data.tags["vlm.error"] == "the dataset has no pictures"
    assert run.data.metrics["loss"] == 2.0
    assert client.get_run(context.mlflow_run_id).info.status == "RUNNING"


def test_interrupted_stage_is_killed(client: MlflowClient, context: RunContext) -> None:
    with pytest.raises(KeyboardInterrupt), stage_tracker(context, "sft", "k", {}):
        raise KeyboardInterrupt
    (run,) = stage_runs(client, context)
    assert run.info.status == "KILLED"


def test_attached_process_logs_on_the_same_runs(client: MlflowClient, context: RunContext) -> None:
    with stage_tracker(context, "sft", "k", {}) as tracker:
        other = StageTracker(tracker.folder)
        other.log_metrics({"loss": 0.25}, step=7)
    assert points(client, mlflow_run(context, "sft"), "loss") == [(7, 0.25)]
    assert points(client, context.mlflow_run_id, "sft.loss") == [(7, 0.25)]


def test_injected_run_is_used(client: MlflowClient, context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = client.get_experiment_by_name("tests").experiment_id
    injected = client.create_run(experiment, tags={"mlflow.parentRunId": context.mlflow_run_id}).info.run_id
    client.log_param(injected, "steps", "what KFP logged")
    monkeypatch.setenv("MLFLOW_RUN_ID", injected)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", context.tracking_uri)
    run_training(context)
    (run,) = stage_runs(client, context)
    assert run.info.run_id == injected
    assert run.data.metrics["samples"] == 12
    assert run.data.params["steps"] == "what KFP logged"
    assert run.data.params["inner.width"] == "8"


def test_injected_run_of_another_server_is_ignored(
    client: MlflowClient, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    run_training(context)
    assert len(stage_runs(client, context)) == 1


def test_opening_twice_finds_the_same_run(
    context: RunContext, tracking_uri: str, tracking_workspace: Path, tmp_path: Path
) -> None:
    again = opened(tracking_uri, tracking_workspace, tmp_path, context.run_id)
    assert again.mlflow_run_id == context.mlflow_run_id


def test_closing_ends_runs_that_are_open(client: MlflowClient, context: RunContext) -> None:
    experiment = client.get_experiment_by_name("tests").experiment_id
    left = client.create_run(experiment, tags={"mlflow.parentRunId": context.mlflow_run_id}).info.run_id
    close_pipeline_run(context.tracking_uri, context.mlflow_run_id, "FINISHED")
    assert client.get_run(left).info.status == "KILLED"
    assert client.get_run(context.mlflow_run_id).info.status == "FINISHED"


def test_server_that_is_down_is_named_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StageError, match=f"{uri} does not answer.*tracking.uri=none"):
            open_pipeline_run(uri, "e", "r", "r", tmp_path, {})


def test_deleted_experiment_is_explained(client: MlflowClient, tracking_uri: str, tmp_path: Path) -> None:
    client.delete_experiment(client.create_experiment("deleted"))
    with pytest.raises(StageError, match="deleted.*experiments restore"):
        open_pipeline_run(tracking_uri, "deleted", "r", "r", tmp_path, {})


def test_long_values_and_odd_names_are_accepted(client: MlflowClient, context: RunContext) -> None:
    with stage_tracker(
        context, "sft", "k", {"long": "x" * 7000, "a@b": 1, **{f"p{i}": i for i in range(150)}}
    ) as tracker:
        tracker.log_metrics({"50 %": 1.0, "nothing": None})
    run = client.get_run(mlflow_run(context, "sft"))
    assert len(run.data.params["long"]) == 6000
    assert run.data.params["a_b"] == "1"
    assert run.data.params["p149"] == "149"
    assert run.data.metrics == {"50 _": 1.0}


def test_without_tracking_nothing_happens(tmp_path: Path) -> None:
    context = RunContext(run_id="t", run_name="t", workspace=tmp_path)
    assert not run_training(context)
    assert run_training(context)
    tracker = StageTracker()
    tracker.log_params({"a": 1})
    tracker.end("FINISHED")
    assert tracker.folder is None
    assert not list(tmp_path.rglob("*.db"))


def test_flatten_joins_names_with_dots() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": [1]}) == {"a.b.c": 1, "d": [1]}


def test_training_that_goes_on_has_one_run_and_one_point_a_step(client: MlflowClient, context: RunContext) -> None:
    """Killed after step 6, checkpoint at 4: steps 5 and 6 are trained and logged again."""

    def killed() -> None:
        with stage_tracker(context, "sft", "k", {"lr": 1}) as tracker:
            for step in range(1, 7):
                tracker.log_metrics({"loss": float(step), "tokens_per_s": 100.0}, step)
            raise RuntimeError("the node is gone")

    with pytest.raises(RuntimeError):
        killed()
    (first,) = stage_runs(client, context)
    assert first.info.status == "FAILED"
    close_pipeline_run(context.tracking_uri, context.mlflow_run_id, "FAILED")
    with stage_tracker(context, "sft", "k", {"lr": 1}) as tracker:
        Sender(context.workspace, context.run_id).finish()
        states = [client.get_run(run).info.status for run in (first.info.run_id, context.mlflow_run_id)]
        for step in range(5, 9):
            tracker.log_metrics({"loss": float(step), "tokens_per_s": 90.0}, step)
    (run,) = stage_runs(client, context)
    assert states == ["RUNNING", "RUNNING"]
    assert (run.info.run_id, run.info.status) == (first.info.run_id, "FINISHED")
    assert "vlm.error" not in run.data.tags
    expected = [(step, float(step)) for step in range(1, 9)]
    assert points(client, run.info.run_id, "loss") == expected
    assert points(client, context.mlflow_run_id, "sft.loss") == expected
    assert [step for step, _ in points(client, run.info.run_id, "tokens_per_s")] == list(range(1, 9))


def test_other_work_of_the_same_stage_is_another_run(client: MlflowClient, context: RunContext) -> None:
    for key in ("k1", "k2"):
        with stage_tracker(context, "generate/captioning", key, {}):
            pass
    assert len(stage_runs(client, context)) == 2


def test_dataset_model_source_and_description_are_where_mlflow_shows_them(
    client: MlflowClient, tracking_uri: str, tracking_workspace: Path, tmp_path: Path
) -> None:
    mlflow_run_id = open_pipeline_run(
        tracking_uri,
        "tests",
        "shown",
        tmp_path.name,
        tracking_workspace,
        {},
        git_commit="abc",
        source="vlm-training",
        links={"Report": "report/report.html", "KFP": "https://kfp.example/#/runs/details/1"},
    )
    context = RunContext(
        run_id=tmp_path.name, run_name="r", workspace=tmp_path, tracking_uri=tracking_uri, mlflow_run_id=mlflow_run_id
    )
    data = run_stage(
        RunContext(run_id="d", run_name="d", workspace=tmp_path),
        stage="energon_split/sft",
        version=1,
        inputs={},
        settings=Settings(),
        body=lambda work: {"samples": 120},
    )
    output = run_stage(
        context,
        stage="sft",
        version=1,
        inputs={"dataset": data.folder},
        settings=Settings(),
        body=lambda work: {"step": 7},
        datasets={"dataset": "training"},
        makes_model=True,
    )
    (stage,) = stage_runs(client, context)
    parent = client.get_run(mlflow_run_id)
    for run in (stage, parent):
        (dataset,) = run.inputs.dataset_inputs
        assert (dataset.dataset.name, dataset.dataset.digest) == ("energon_split/sft", data.folder.name)
        assert json.loads(dataset.dataset.profile) == {"samples": 120}
        assert [(tag.key, tag.value) for tag in dataset.tags] == [("mlflow.data.context", "training")]
        (model,) = run.outputs.model_outputs
        assert model.step == 7
        assert client.get_logged_model(model.model_id).tags["vlm.folder"] == str(output.folder)
        assert run.data.tags["mlflow.source.git.commit"] == "abc"
    assert parent.data.tags["mlflow.source.name"] == "vlm-training"
    assert stage.data.tags["mlflow.source.name"] == "vlm-training, sft"
    note = parent.data.tags["mlflow.note.content"]
    artifacts = f"#/experiments/{parent.info.experiment_id}/runs/{mlflow_run_id}/artifacts/report/report.html"
    assert f"[Report]({artifacts})" in note
    assert "[KFP](https://kfp.example/#/runs/details/1)" in note
    experiment = client.get_experiment(parent.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_what_mlflow_refuses_is_told_and_holds_up_nothing(
    client: MlflowClient, context: RunContext, capsys: pytest.CaptureFixture[str]
) -> None:
    with stage_tracker(context, "sft", "k", {}) as tracker:
        tracker.set_tags({"a\nb" * 200: "no such name"})
        tracker.log_metrics({"loss": 0.5}, step=1)
    assert "MLflow refused tags" in capsys.readouterr().out
    assert points(client, mlflow_run(context, "sft"), "loss") == [(1, 0.5)]


def test_line_that_a_killed_process_left_is_no_harm(client: MlflowClient, context: RunContext) -> None:
    with stage_tracker(context, "sft", "k", {}) as tracker:
        tracker.log_metrics({"loss": 0.5}, step=1)
        (tracker.folder or Path()).joinpath("00000000000000000001-a-1.jsonl").write_text('{"kind": "metr')
    assert points(client, mlflow_run(context, "sft"), "loss") == [(1, 0.5)]
    assert client.get_run(mlflow_run(context, "sft")).info.status == "FINISHED"


@pytest.mark.parametrize(("uri", "sender"), [("", ""), ("sqlite:////nowhere/mlflow.db", "vlm run")])
def test_mlflow_is_not_imported_where_nothing_is_sent(tmp_path: Path, uri: str, sender: str) -> None:
    program = f"""
import sys
from pathlib import Path
from pydantic import BaseModel
from components.context import RunContext
from components.stage.runner import run_stage
class Settings(BaseModel): pass
context = RunContext(run_id="t", run_name="t", workspace=Path({str(tmp_path)!r}), tracking_uri={uri!r}, mlflow_run_id="1")
def body(work):
    work.tracker.log_metrics({{"loss": 1.0}}, 1)
    return {{}}
run_stage(context, stage="pretrain", version=1, inputs={{}}, settings=Settings(), body=body)
print(*(name for name in ("mlflow", "sqlalchemy", "requests") if name in sys.modules))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), SENDER_VARIABLE: sender}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
