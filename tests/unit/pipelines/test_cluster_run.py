"""`vlm submit` and `vlm status --endpoint`, with KFP's real client against a small server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import cluster_view
from pipelines.cli import main
from tests.support.kfp_server import KfpServer, as_of, recorded_run, recorded_specification

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    monkeypatch.setattr(cluster_view, "POLL_S", 0.02)
    server = KfpServer()
    yield server
    server.close()


def moments(server: KfpServer, name: str, *times: str) -> None:
    """Let the next run go through what a real one went through, by the real one's pipeline, in a look each, and end as it ended."""
    recorded = recorded_run(name)
    pipeline = recorded_specification("pipeline_spec_partitions" if name.endswith("partitions") else "pipeline_spec")
    for answer in (*(as_of(recorded, f"2026-11-27T{time}Z") for time in times), recorded):
        seen = {part: answer[part] for part in ("state", "state_history", "run_details", "finished_at")}
        server.script.append({**seen, "pipeline_spec": pipeline})


def stages_told(output: str, *stages: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith(stages)]


def submit(server: KfpServer, *more: str) -> int:
    return main(["submit", "--endpoint", server.url, "--preset", "mistral-clip-7b", *more])


def test_submit_uploads_runs_and_follows(server: KfpServer, capsys: Captured) -> None:
    moments(server, "succeeded_two_nodes_partitions", "12:08:00", "12:08:45", "12:10:50")
    server.faults.extend([503])
    assert submit(server, "--set", "name=first", "--service-account", "vlm-launcher") == 0
    (run,) = server.runs.values()
    assert (run["display_name"], run["service_account"]) == ("first", "vlm-launcher")
    (experiment,) = server.experiments.values()
    assert experiment["display_name"] == "mistral-clip-7b"
    package = server.packages[run["pipeline_version_reference"]["pipeline_version_id"]]
    assert package[0]["pipelineInfo"]["name"] == "vlm-training"
    defaults = package[0]["root"]["inputDefinitions"]["parameters"]
    assert defaults["run_name"]["defaultValue"] == "first"
    assert json.dumps(server.url) in json.dumps(package[0]["root"])  # for the link from MLflow
    lines = capsys.readouterr().out.splitlines()
    assert f"page     {server.url}/#/runs/details/{run['run_id']}" in lines
    assert stages_told("\n".join(lines), "open_run", "energon_split", "pretrain") == [
        "open_run: queued",
        "open_run: done (10 s)",
        "energon_split/pretrain: queued",
        "energon_split/sft: done (20 s)",
        "energon_split/pretrain: done (21 s)",
        "pretrain: done",
    ]
    assert not [line for line in lines if "driver" in line or "executor" in line]
    (failure,) = [line for line in lines if "503" in line]
    assert failure.endswith("503 Service Unavailable. busy: no endpoints available Trying again.")


def test_submit_warns_of_an_old_server(server: KfpServer, capsys: Captured) -> None:
    assert submit(server, "--detach") == 0
    assert "WARNING" not in capsys.readouterr().err
    server.version = "2.16.1"
    assert submit(server, "--detach") == 0
    assert "WARNING: Kubeflow Pipelines is 2.16.1, older than 2.17: " in capsys.readouterr().err


def test_same_pipeline_is_uploaded_once(server: KfpServer) -> None:
    for _ in range(3):
        assert submit(server, "--detach") == 0
    assert (len(server.pipelines), len(server.runs)) == (1, 3)
    # The first upload is named by KFP, later ones by their content.
    assert len(server.versions) == 2


def test_failed_run_fails_the_command(server: KfpServer, capsys: Captured) -> None:
    moments(server, "failed_after_retries")
    assert submit(server) == 1
    output = capsys.readouterr().out
    assert stages_told(output, "pretrain", "sft", "report") == ["pretrain: failed, 2 tries (6:16)"]
    assert f"vlm logs {next(iter(server.runs))} pretrain prints what it said." in output


def test_cancelled_run_says_so(server: KfpServer, capsys: Captured) -> None:
    moments(server, "cancelled_bad_image", "12:19:00")
    assert submit(server) == 1
    output = capsys.readouterr().out
    assert stages_told(output, "open_run") == ["open_run: queued", "open_run: interrupted (1:44)"]
    assert f"run {next(iter(server.runs))}: cancelled" in output


def test_status(server: KfpServer, capsys: Captured) -> None:
    assert submit(server, "--detach") == 0
    (run_id,) = server.runs
    capsys.readouterr()
    assert main(["status", "--endpoint", server.url]) == 0
    output = capsys.readouterr().out
    assert f"mistral-clip-7b   {run_id}   queued" in output
    assert "evaluate/textvqa" in output
    assert "state    queued" in output


def test_mistakes_get_a_message(server: KfpServer, tmp_path: Path, capsys: Captured) -> None:
    def error(*arguments: str) -> str:
        assert main(list(arguments)) == 1
        return capsys.readouterr().err

    nowhere = ("--endpoint", "http://127.0.0.1:9")
    assert "There is no Kubeflow Pipelines at http://127.0.0.1:9" in error("submit", *nowhere)
    here = ("--endpoint", server.url)
    assert "set cluster.pvc" in error("submit", *here, "--preset", "laptop")
    assert "mount path" in error("submit", *here, "--preset", "laptop", "--set", "cluster.pvc=w")
    assert f"There is no run 'none' at {server.url}. Its runs, newest first: none." in error("cancel", "none", *here)
    assert "404" in error("cancel", "0" * 8 + "-0000" * 3 + "-" + "0" * 12, *here)
    assert "There are no runs" in error("status", *here)
    server.token = "secret"
    assert "wants a login (401): put a token into a file" in error("submit", *here)
    token = tmp_path / "token"
    assert "Can't read the token file" in error("status", *here, "--token-file", str(token))
    token.write_text("secret\n")
    assert "There are no runs" in error("status", *here, "--token-file", str(token))
    assert not server.runs


def test_endpoint_comes_from_the_environment(
    server: KfpServer, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
    assert main(["submit", "--preset", "mistral-clip-7b", "--detach"]) == 0
    assert len(server.runs) == 1
