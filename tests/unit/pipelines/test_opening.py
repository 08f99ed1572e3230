"""What the first and the last task of a pipeline leave of a run, as on a cluster, where `vlm run` keeps no record."""

import datetime
from pathlib import Path

import pytest

from components.errors import ConfigurationError
from components.progress import Progress
from components.runs.find import Places, find_run
from components.runs.folder import RunFolder
from components.tracking.client import connect
from pipelines.opening import close_pipeline, open_pipeline
from pipelines.preset_files import load_preset


def opened(workspace: Path, uri: str, run_id: str, *more: str) -> RunFolder:
    overrides = [
        f"workspace='{workspace}'",
        f"tracking.uri='{uri}'",
        "tracking.experiment=opening",
        "name=on-a-cluster",
        *more,
    ]
    config = load_preset("laptop", overrides).model_dump(mode="json")
    open_pipeline(config, {}, run_id)
    return RunFolder(workspace, run_id)


@pytest.mark.parametrize(
    ("told", "state", "status"),
    [
        ("SUCCEEDED", "succeeded", "FINISHED"),
        ("FAILED", "failed", "FAILED"),
        ("CANCELLED", "interrupted", "KILLED"),
        # What KFP 2.17 says on a cluster: states of ML Metadata.
        ("COMPLETE", "succeeded", "FINISHED"),
        ("CACHED", "succeeded", "FINISHED"),
        ("CANCELED", "interrupted", "KILLED"),
        ("RUNNING", "interrupted", "KILLED"),
        ("A_NEW_WORD", "interrupted", "KILLED"),
    ],
)
def test_a_run_records_its_name_its_start_and_its_end(
    told: str, state: str, status: str, tmp_path: Path, tracking_uri: str
) -> None:
    before = datetime.datetime.now(datetime.UTC)
    run = opened(tmp_path, tracking_uri, f"{tmp_path.name}-1")
    assert (run.name, run.state()) == ("on-a-cluster", "running")
    started = run.started
    assert started is not None
    assert before <= started <= datetime.datetime.now(datetime.UTC)
    mlflow_run_id = run.context()["mlflow_run_id"]
    client = connect(tracking_uri)
    assert client.get_run(mlflow_run_id).info.start_time == int(started.timestamp() * 1000)

    again = opened(tmp_path, tracking_uri, run.run_id)
    assert (again.started, again.context()["mlflow_run_id"]) == (started, mlflow_run_id)

    close_pipeline(tmp_path, run.run_id, told)
    assert run.state() == state
    assert client.get_run(mlflow_run_id).info.status == status
    assert find_run("on-a-cluster", Places(tmp_path)).run_id == run.run_id


def test_an_unknown_end_is_a_failure_where_a_stage_failed(
    tmp_path: Path, tracking_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = opened(tmp_path, tracking_uri, f"{tmp_path.name}-1")
    Progress("sft", run.path / "progress" / "sft-1.json").finish("failed", "shard 7 is broken")
    close_pipeline(tmp_path, run.run_id, "A_NEW_WORD")
    assert run.state() == "failed"
    assert "final state 'A_NEW_WORD' is not known; by its stages the run is failed" in capsys.readouterr().out


def test_a_run_that_can_not_be_opened_is_closed(tmp_path: Path, tracking_uri: str) -> None:
    gate = "evaluations.captioning.evaluate.gates=[{metric: cider, minimum: 0.0, baseline: nowhere}]"
    with pytest.raises(ConfigurationError, match="nowhere"):
        opened(tmp_path, tracking_uri, "unopened", gate)
    run = RunFolder(tmp_path, "unopened")
    assert run.state() == "failed"
    mlflow_run_id = run.context()["mlflow_run_id"]
    assert connect(tracking_uri).get_run(mlflow_run_id).info.status == "FAILED"
    # Tried again, it is the same run, and runs.
    again = opened(tmp_path, tracking_uri, "unopened")
    assert (again.state(), again.context()["mlflow_run_id"]) == ("running", mlflow_run_id)


def test_the_end_of_a_local_run_is_left_to_the_command_that_runs_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "local-1")
    run.update_record(name="local", state="running", pid=1)
    close_pipeline(tmp_path, "local-1", "FAILED")
    assert run.record()["state"] == "running"


@pytest.mark.parametrize("local", [False, True])
def test_the_description_links_to_the_page_in_kfp(
    local: bool, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if local:
        monkeypatch.setenv("VLM_RUN_ID", "here")  # as `vlm run` sets it: no run of KFP's server
    run = opened(tmp_path, tracking_uri, f"{tmp_path.name}-{local}", "tracking.kfp_ui='https://kfp.example/pipeline/'")
    description = connect(tracking_uri).get_run(run.context()["mlflow_run_id"]).data.tags["mlflow.note.content"]
    page = f"https://kfp.example/pipeline/#/runs/details/{run.run_id}"
    assert (f"[Pipeline in KFP]({page})" in description) is not local
