"""`vlm logs`, of runs of this machine and of a cluster, and why a cluster's pods wait."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import kubernetes.config
import pytest
import yaml

from components.runs.folder import RunFolder
from components.runs.kfp import KfpRuns
from pipelines import run_logs
from pipelines.cli import main
from pipelines.cluster_pods import RunPods
from pipelines.cluster_stages import stage_pods
from pipelines.cluster_view import ClusterRun
from pipelines.display import what
from tests.support.kfp_server import (
    API_LOGS,
    UI_LOGS,
    KfpServer,
    as_of,
    recorded_events,
    recorded_run,
    recorded_specification,
)
from tests.support.kubeconfig import write_kubeconfig
from tests.support.kubernetes_server import KubernetesServer

Captured = pytest.CaptureFixture[str]
PRETRAIN = "vlm-training-5zpfz-system-container-impl-3126258554"  # the second try of the run that failed
SFT = "vlm-training-kf8t7-system-container-impl-711051756"


@pytest.fixture
def kfp() -> Iterator[KfpServer]:
    server = KfpServer()
    yield server
    server.close()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesServer]:
    """A cluster that kubectl's configuration reaches."""
    server = KubernetesServer()
    write_kubeconfig(tmp_path / "kubeconfig", server.url)
    monkeypatch.setattr(kubernetes.config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    yield server
    server.close()


# Runs of this machine

LOG = """\
12:00:00.000 - INFO - Executing task \x1b[96m'open-run'\x1b[0m
12:00:00.000 - INFO - Streamed logs:

    [KFP Executor 2026-11-27 19:18:25,726 INFO]: Got executor_input:
    {
        "inputs": {}
    }
    checked
12:00:01.000 - INFO - Task \x1b[96m'open-run'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
12:00:01.000 - INFO - Executing task \x1b[96m'wds-conversion-2'\x1b[0m
    converted for sft
12:00:02.000 - INFO - Task \x1b[96m'wds-conversion-2'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
12:00:02.000 - INFO - Executing task \x1b[96m'pretrain'\x1b[0m
    [rank 0] step 1
    [rank 1] step 2
    [rank 10] step 3
"""


@pytest.fixture
def here(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path, "laptop-1")
    run.update_record(name="laptop", started="2026-01-01T00:00:00+00:00", state="failed")
    (run.path / "pipeline.yaml").write_text(yaml.safe_dump(recorded_specification()))
    run.log.write_text(LOG)
    return run


def logs_of(run: RunFolder, *arguments: str) -> None:
    assert main(["logs", *arguments, "--workspace", str(run.workspace)]) == 0


def test_logs_of_a_run_here(here: RunFolder, capsys: Captured) -> None:
    logs_of(here)
    everything = capsys.readouterr().out
    assert "converted for sft" in everything
    assert "inputs" not in everything
    logs_of(here, "laptop", "wds_conversion/sft")
    assert capsys.readouterr().out == "converted for sft\n"
    logs_of(here, "laptop", "pretrain", "--rank", "1")
    assert capsys.readouterr().out == "step 2\n"
    logs_of(here, "laptop", "report")
    assert capsys.readouterr().out == ""
    assert main(["logs", "laptop", "pretain", "--workspace", str(here.workspace)]) == 1
    assert "no stage 'pretain'. The run's stages are open_run, download/dataset, " in capsys.readouterr().err


def test_logs_of_a_run_here_are_followed_to_its_end(here: RunFolder, capsys: Captured) -> None:
    here.update_record(state="running")

    def go_on() -> None:
        time.sleep(0.2)
        with open(here.log, "a") as log:
            log.write("    [rank 0] step")
            log.flush()
            time.sleep(0.7)
            log.write(" 4\n")
        here.update_record(state="succeeded")

    writer = threading.Thread(target=go_on)
    writer.start()
    logs_of(here, "laptop", "pretrain", "--rank", "0", "-f")
    writer.join()
    assert capsys.readouterr().out == "step 1\nstep 4\n"


def test_logs_of_ranks_that_a_clusters_run_left_on_the_volume(here: RunFolder, capsys: Captured) -> None:
    here.log.unlink()
    assert main(["logs", "laptop", "pretrain", "--workspace", str(here.workspace)]) == 1
    assert "was a cluster's. Read its pods' logs: vlm logs laptop-1 --endpoint URL" in capsys.readouterr().err
    folder = here.workspace / "pretrain" / "abc" / "launch" / "logs" / "none_x" / "attempt_0" / "1"
    folder.mkdir(parents=True)
    (folder / "stderr.log").write_text("out of memory\n")
    progress = here.path / "progress" / "pretrain-abc.json"
    progress.parent.mkdir()
    progress.write_text(json.dumps({"stage": "pretrain", "state": "failed"}))
    logs_of(here, "laptop", "pretrain", "--rank", "1")
    assert capsys.readouterr().out == "out of memory\n"


# Runs of a cluster


def add(kfp: KfpServer, name: str) -> list[str]:
    run_id = kfp.add_recorded(recorded_run(name), recorded_specification())
    return ["logs", run_id, "--endpoint", kfp.url]


def test_without_a_stage_the_failed_one_is_meant(kfp: KfpServer, capsys: Captured) -> None:
    command = add(kfp, "failed_after_retries")
    kfp.logs[f"{UI_LOGS}?{PRETRAIN}"] = "[rank 0] one\n[rank 1] two\nlast"
    assert main(command) == 0
    assert capsys.readouterr().out == "[rank 0] one\n[rank 1] two\nlast\n"
    assert main([*command[:2], "pretrain", "--rank", "1", *command[2:]]) == 0
    assert capsys.readouterr().out == "two\n"


@pytest.mark.parametrize("node", [PRETRAIN, "vlm-training-5zpfz-3126258554"])
def test_the_api_server_has_logs_too(kfp: KfpServer, capsys: Captured, node: str) -> None:
    """By the pod while it is there, by the workflow's node in the archive."""
    command = add(kfp, "failed_after_retries")
    kfp.logs[f"{API_LOGS}/{command[1]}/nodes/{node}/log"] = "said\n"
    assert main(command) == 0
    assert capsys.readouterr().out == "said\n"


def test_a_log_that_is_nowhere(kfp: KfpServer, capsys: Captured) -> None:
    command = add(kfp, "failed_after_retries")
    assert main(command) == 1
    error = capsys.readouterr().err
    assert f"KFP has no log of it. Look with kubectl -n NAMESPACE logs {PRETRAIN} -c main" in error
    assert main([*command[:2], "sft", *command[2:]]) == 1
    assert "sft has no pod: it is not reached" in capsys.readouterr().err


def test_kfps_log_is_followed(kfp: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_logs, "_POLL_S", 0.01)
    _, run_id, *_ = add(kfp, "running_resumed")
    address = f"{UI_LOGS}?{SFT}"
    kfp.logs[address] = "one\ntw"
    run = ClusterRun(KfpRuns(kfp.url), run_id)
    lines = run_logs.cluster_lines(run, None, "sft", follow=True)
    assert next(lines) == "one"
    kfp.logs[address] = "one\ntwo\nthr"
    assert next(lines) == "two"
    kfp.faults.extend([503])
    kfp.logs[address] = "one\ntwo\nthree\nend"
    assert next(lines) == "three"
    kfp.runs[run_id]["state"] = "FAILED"
    assert list(lines) == ["end"]


def test_a_pods_log_is_followed(kfp: KfpServer, cluster: KubernetesServer, capsys: Captured) -> None:
    command = add(kfp, "running_resumed")
    pod = cluster.add_pod(SFT, {"pipeline/runid": command[1]}, container="main")
    pod["metadata"]["namespace"] = "vlm"
    for line in ("[rank 0] one", "[rank 1] two"):
        cluster.say(SFT, line)
    threading.Timer(0.3, lambda: cluster.end_pod(SFT, 0)).start()
    assert main([command[0], command[1], "sft", "-f", *command[2:]]) == 0
    assert capsys.readouterr().out == "[rank 0] one\n[rank 1] two\n"


# Why pods wait


def waiting(kfp: KfpServer, cluster: KubernetesServer, workflow: str) -> list[str]:
    """Let the run whose image is wrong wait for its first pod, with the events of a real cluster's pod; return its id."""
    run = as_of(recorded_run("cancelled_bad_image"), "2026-11-27T12:19:00Z")
    run_id = kfp.add_recorded(run, recorded_specification())
    name = "vlm-training-pgv2h-system-container-impl-1404226154"
    pod = cluster.add_pod(name, {"pipeline/runid": run_id}, phase="Pending", container="main")
    pod["metadata"]["namespace"] = "vlm"
    pod["status"] = {"phase": "Pending", "containerStatuses": [{"name": "main", "state": {}}]}
    first = next(event["pod"] for event in recorded_events() if workflow in event["pod"])
    for event in recorded_events():
        if event["pod"] == first:
            cluster.add_event(pod["metadata"]["uid"], event["reason"], event["message"])
            cluster.events[-1]["type"] = event["type"]
    return ["--endpoint", kfp.url, "--tracking-uri", ""]


@pytest.mark.parametrize(
    ("workflow", "reason"),
    [
        ("pgv2h", 'Failed: Failed to pull image "registry.example/vlm/cpu:nope": failed to pull'),
        ("nprz5", 'FailedScheduling: 0/1 nodes are available: persistentvolumeclaim "nope" not found.'),
    ],
)
def test_why_a_pod_waits(
    kfp: KfpServer,
    cluster: KubernetesServer,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    workflow: str,
    reason: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    options = waiting(kfp, cluster, workflow)
    assert main(["status", *options]) == 0
    shown = next(line for line in capsys.readouterr().out.splitlines() if "open_run" in line)
    assert f"queued: {reason}" in shown
    assert shown.rstrip().endswith(("no such host", "not found. not found"))
    assert len(shown.rstrip()) < 220
    assert main(["logs", "bad-image", "open_run", *options]) == 1
    assert f"does not run yet: {reason}" in capsys.readouterr().err


QUEUE = "in queue vlm: insufficient unused quota for nvidia.com/gpu, 8 more needed"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"PyTorchJob created\nsft waits: no pods yet\nsft waits: {QUEUE}\n", f"waits: {QUEUE}"),
        (f"sft waits: {QUEUE}\n[rank 0] W1127 a library's words\n", ""),
        (
            f"sft waits: {QUEUE}\n[rank 0] sft: training 12/400 steps, 1.5/s, 259 s left, loss 3.25\n",
            "training 12/400 steps, 1.5/s, loss 3.25, 4:19 left",
        ),
    ],
)
def test_what_a_trainings_pod_says(kfp: KfpServer, said: str, told: str) -> None:
    _, run_id, *_ = add(kfp, "running_resumed")
    kfp.logs[f"{UI_LOGS}?{SFT}"] = said
    (row,) = [row for row in ClusterRun(KfpRuns(kfp.url), run_id).look().rows if row.stage == "sft"]
    assert (row.state, what(row)) == ("running", told)


def test_how_far_a_stage_is_its_pod_says(kfp: KfpServer) -> None:
    """Of stages that are no trainings nothing is known but the log."""
    begun = as_of(recorded_run("succeeded_two_nodes_partitions"), "2026-11-27T12:10:00Z")
    running = json.loads(json.dumps(begun).replace('"PENDING"', '"RUNNING"'))
    run_id = kfp.add_recorded(running, recorded_specification("pipeline_spec_partitions"))
    seen = ClusterRun(KfpRuns(kfp.url), run_id)
    stage = "wds_conversion/pretrain"
    seen.look()
    for task in stage_pods(seen.plan, seen.tasks, stage):
        kfp.logs[f"{UI_LOGS}?{task.pods[-1]}"] = (
            f"ready\n{stage}/parts: writing shards 30/50 samples, 2.5/s, 8 s left\n"
        )
    (row,) = [row for row in seen.look().rows if row.stage == stage]
    assert what(row) == "writing shards 30/50 samples, 2.5/s, 8 s left, 0 of 2 partitions"


def test_where_to_look_when_no_cluster_is_reached(
    kfp: KfpServer, cluster: KubernetesServer, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    options = waiting(kfp, cluster, "pgv2h")
    monkeypatch.setattr(RunPods, "reached_from_here", lambda run_id, namespace: None)
    assert main(["status", *options]) == 0
    assert capsys.readouterr().out.count("kubectl describe pods -A -l pipeline/runid=4d764573") == 1


def test_a_cluster_that_does_not_answer_is_named(
    kfp: KfpServer, cluster: KubernetesServer, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    options = waiting(kfp, cluster, "pgv2h")
    cluster.close()
    assert main(["status", *options]) == 0
    assert "Why pods wait is not known: the Kubernetes API does not answer" in capsys.readouterr().out
