"""`vlm cancel`: what is left of a run on a cluster and on this machine, and what it says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp import dsl
from kubernetes.config import kube_config

from components.context import RunContext
from components.runs.folder import CONTEXT_NAME, RunFolder, new_run
from components.storage.atomic import write_json
from components.tracking.client import connect
from components.tracking.pipeline_run import close_pipeline_run, open_pipeline_run
from pipelines import cluster_cancel
from pipelines.cli import main
from pipelines.processes import marked_processes
from tests.support.cluster_objects_server import ClusterObjectsServer, recorded_job
from tests.support.kfp_server import KfpServer
from tests.support.kubeconfig import write_kubeconfig
from tests.support.processes import is_over
from tests.support.waiting import wait_for
from tests.unit.pipelines.test_local_run import prepared, sleeper, start_execute

Captured = pytest.CaptureFixture[str]
JOB = recorded_job()
RUN = JOB["metadata"]["labels"]["vlm-pipelines/run-id"]
POD_LABELS = {"metadata": {"labels": {"pipeline/runid": RUN}}}


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    for name, value in {"_POLL_S": 0.02, "_ENDING_S": 0.2, "_GONE_S": 0.2}.items():
        monkeypatch.setattr(cluster_cancel, name, value)
    server = KfpServer()
    server.runs[RUN] = {"run_id": RUN, "display_name": "mine", "state": "RUNNING", "created_at": "2026-11-27T12:08:13Z"}
    yield server
    server.close()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterObjectsServer]:
    """A run that hangs in its last task: KFP has ended the others, nothing has told the launcher's job."""
    server = ClusterObjectsServer()
    write_kubeconfig(tmp_path / "kubeconfig", server.url)
    # The client reads KUBECONFIG when it is imported.
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    server.add("workflows", "kubeflow", "vlm-training-pgv2h", **POD_LABELS)
    server.add("pods", "kubeflow", "open-run", status={"phase": "Succeeded"}, **POD_LABELS)
    server.add("pods", "kubeflow", "close-run", status={"phase": "Pending"}, **POD_LABELS)
    server.add("pods", "kubeflow", "another-runs", status={"phase": "Running"})
    server.add("pytorchjobs", "vlm", JOB["metadata"]["name"], **JOB)
    taken_over = {**JOB["metadata"], "annotations": {"vlm-pipelines/owner-run": "another"}}
    server.add("pytorchjobs", "vlm", "taken-over", **{**JOB, "metadata": taken_over})
    yield server
    server.close()


def cancel(kfp: KfpServer, run: str = RUN, uri: str = "") -> int:
    return main(["cancel", run, "--endpoint", kfp.url, "--tracking-uri", uri])


def tracked(uri: str, workspace: Path, status: str = "") -> str:
    run_id = open_pipeline_run(uri, "cancel", "mine", f"{workspace.name}-{RUN}", workspace, {})
    connect(uri).set_tag(run_id, "vlm.run_id", RUN)
    if status:
        close_pipeline_run(uri, run_id, status)
    return run_id


@pytest.fixture
def mlflow_run(tracking_uri: str, tmp_path: Path) -> Iterator[str]:
    run_id = tracked(tracking_uri, tmp_path)
    yield run_id
    connect(tracking_uri).delete_run(run_id)


def test_everything_of_a_run_that_hangs_is_ended(
    kfp: KfpServer, cluster: ClusterObjectsServer, tracking_uri: str, mlflow_run: str, capsys: Captured
) -> None:
    assert cancel(kfp, "mine", tracking_uri) == 0
    assert kfp.runs[RUN]["state"] == "CANCELING"
    assert cluster.names("pods") == {"open-run", "another-runs"}
    assert cluster.names("pytorchjobs") == {"taken-over"}
    (workflow,) = [item for key, item in cluster.objects.items() if key.plural == "workflows"]
    assert workflow["spec"]["shutdown"] == "Terminate"
    assert connect(tracking_uri).get_run(mlflow_run).info.status == "KILLED"
    assert capsys.readouterr().out.splitlines() == [
        f"run      {RUN}",
        "KFP      the run was told to end; its pods have their time to",
        "KFP      the run has not ended after 0 s",
        "pods     workflow kubeflow/vlm-training-pgv2h stopped, so that it makes no new ones",
        "pods     pod kubeflow/close-run deleted",
        f"jobs     PyTorchJob vlm/{JOB['metadata']['name']} deleted",
        f"MLflow   the run {mlflow_run} is KILLED",
    ]


def test_pods_have_their_time_before_anything_is_deleted(
    kfp: KfpServer, cluster: ClusterObjectsServer, tracking_uri: str, mlflow_run: str, capsys: Captured
) -> None:
    """KFP ends the run, its last task closes it in MLflow, as a failure: KFP's word for a cancelled run."""
    for name in ("close-run", JOB["metadata"]["name"]):
        cluster.objects = {key: item for key, item in cluster.objects.items() if key.name != name}
    close_pipeline_run(tracking_uri, mlflow_run, "FAILED")
    kfp.script.extend([{"state": "RUNNING"}, {"state": "CANCELING"}, {"state": "FAILED"}, {"state": "FAILED"}])
    assert cancel(kfp, uri=tracking_uri) == 0
    assert cluster.requests == []
    assert connect(tracking_uri).get_run(mlflow_run).info.status == "KILLED"
    output = capsys.readouterr().out
    assert "KFP      the run has ended\npods     none is left\njobs     none is left\n" in output


def test_without_kubernetes_it_says_what_it_could_not_end(kfp: KfpServer, capsys: Captured) -> None:
    kfp.script.append({"state": "FAILED"})
    assert cancel(kfp) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "KFP      the run is over already: failed"
    assert lines[2].startswith("pods     NOT ENDED: there is no configuration for Kubernetes here.")
    assert lines[2].endswith(f"To end it: kubectl delete pods -A -l pipeline/runid={RUN}")
    assert lines[3].endswith(f"kubectl delete pytorchjobs,trainjobs -A -l vlm-pipelines/run-id={RUN}")
    assert "--tracking-uri" in lines[4]


def test_without_kfp_the_rest_is_ended(
    cluster: ClusterObjectsServer, kfp: KfpServer, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    kfp.close()
    assert cancel(kfp) == 1
    assert cluster.names("pytorchjobs") == {"taken-over"}
    assert cluster.names("pods") == {"open-run", "another-runs"}
    assert "KFP      NOT ENDED: can't be asked" in capsys.readouterr().out
    # A name means nothing without KFP.
    assert cancel(kfp, "mine") == 1
    assert "There is no Kubeflow Pipelines at" in capsys.readouterr().err


def test_where_one_namespace_may_be_seen_that_one_is_ended(
    kfp: KfpServer, cluster: ClusterObjectsServer, capsys: Captured
) -> None:
    kfp.runs[RUN]["state"] = "FAILED"
    cluster.only = "vlm"
    assert cancel(kfp) == 0
    assert cluster.names("pytorchjobs") == {"taken-over"}
    assert cluster.names("pods") == {"open-run", "close-run", "another-runs"}
    assert "pods     none is left in the namespace vlm" in capsys.readouterr().out
    cluster.only = "elsewhere"
    assert cancel(kfp) == 1
    assert 'NOT ENDED: can\'t list pods: pods is forbidden: User "you"' in capsys.readouterr().out


def test_what_does_not_go_is_named(kfp: KfpServer, cluster: ClusterObjectsServer, capsys: Captured) -> None:
    kfp.runs[RUN]["state"] = "FAILED"
    cluster.sticky.add(JOB["metadata"]["name"])
    assert cancel(kfp) == 1
    assert f"NOT ENDED: PyTorchJob vlm/{JOB['metadata']['name']} still there" in capsys.readouterr().out


def test_what_takes_its_time_is_not_left(kfp: KfpServer, cluster: ClusterObjectsServer, capsys: Captured) -> None:
    """A training pod has two minutes to save what it has."""
    kfp.runs[RUN]["state"] = "FAILED"
    cluster.slow.add(JOB["metadata"]["name"])
    for said in ("deleted", "is being deleted"):
        assert cancel(kfp) == 0
        output = capsys.readouterr().out
        assert f"jobs     PyTorchJob vlm/{JOB['metadata']['name']} {said}\n" in output
        assert "on the way out: pods have their time to save" in output
    assert len([line for line in cluster.requests if line.startswith("DELETE pytorchjobs")]) == 1


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_a_run_that_is_over_keeps_its_end(
    status: str, kfp: KfpServer, tracking_uri: str, mlflow_run: str, tmp_path: Path
) -> None:
    kfp.runs[RUN]["state"] = "SUCCEEDED" if status == "FINISHED" else "FAILED"
    close_pipeline_run(tracking_uri, mlflow_run, status)
    cancel(kfp, uri=tracking_uri)
    assert connect(tracking_uri).get_run(mlflow_run).info.status == status


# On this machine.


SLEEPER = "import sys, time, pathlib; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"


def test_processes_of_a_run_whose_command_is_gone_are_ended(
    tmp_path: Path, tracking_uri: str, mlflow_run: str, capsys: Captured
) -> None:
    run = new_run(tmp_path, "mine")
    bystander = subprocess.Popen([sys.executable, "-c", SLEEPER, str(tmp_path / "bystander")])
    orphan = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(tmp_path / "orphan")], env={**os.environ, run.mark[0]: run.mark[1]}
    )
    try:
        # The record's process id belongs to someone else by now.
        run.update_record(name="mine", state="running", pid=bystander.pid)
        context = RunContext(
            run_id=run.run_id, run_name="mine", workspace=tmp_path, tracking_uri=tracking_uri, mlflow_run_id=mlflow_run
        )
        write_json(run.path / CONTEXT_NAME, context.model_dump(mode="json"))
        started = [tmp_path / name for name in ("bystander", "orphan")]
        wait_for(lambda: all(path.exists() for path in started))
        assert main(["cancel", run.run_id[:6], "--workspace", str(tmp_path)]) == 0
        assert orphan.wait(10) is not None  # psutil, in this process, has taken its status already
        assert bystander.poll() is None
    finally:
        bystander.kill()
        orphan.kill()
        bystander.wait()
    assert run.state() == "interrupted"
    assert connect(tracking_uri).get_run(mlflow_run).info.status == "KILLED"
    assert capsys.readouterr().out.splitlines() == [
        "processes 1 ended",
        f"run       {run.run_id} is interrupted; `vlm run` again goes on where it was",
        f"MLflow    the run {mlflow_run} is KILLED",
    ]


def test_the_command_of_a_run_ends_it_itself(tmp_path: Path, capsys: Captured) -> None:
    pid_file = tmp_path / "pid"

    @dsl.pipeline(name="sleeping")
    def sleeping() -> None:
        sleeper(pid_file=str(pid_file), deaf=False)

    run = prepared(tmp_path, sleeping)
    command = start_execute(run)
    try:
        run.update_record(pid=command.pid)
        worker = wait_for(lambda: int(pid_file.read_text()) if pid_file.exists() and pid_file.read_text() else None)
        assert main(["cancel", run.run_id, "--workspace", str(tmp_path)]) == 0
        assert command.wait(30) is not None
    finally:
        command.kill()
        command.wait()
    assert is_over(worker)
    assert not marked_processes(run.mark)
    assert run.state() == "interrupted"
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"processes \d+ ended", lines[0])
    assert lines[2] == "MLflow    has no run of it"


def test_nothing_is_ended_without_a_name_or_that_is_not_of_this_machine(tmp_path: Path, capsys: Captured) -> None:
    assert main(["cancel", "", "--workspace", str(tmp_path)]) == 1
    assert "Name the run" in capsys.readouterr().err
    RunFolder(tmp_path, "on-a-cluster").update_record(name="c", state="running")
    assert main(["cancel", "c", "--workspace", str(tmp_path)]) == 1
    assert "--endpoint" in capsys.readouterr().err
