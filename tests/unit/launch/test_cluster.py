"""Submitting, following and cancelling, with the real Kubernetes client against a small API server."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.errors import ConfigurationError
from components.launch.cluster import run_on_cluster
from components.launch.errors import ClusterFailure, JobRejected, TrainingFailed
from components.launch.job import TrainingJob
from components.launch.pod import OWNER_ANNOTATION
from tests.support.kubeconfig import write_kubeconfig
from tests.support.kubernetes_server import KubernetesServer, Object
from tests.support.launching import Launcher, Said, finish, make_job, pod_labels, start_pods
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.torchrun_lines import root_cause
from tests.support.waiting import PATIENCE_S, wait_for

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def server() -> Iterator[KubernetesServer]:
    server = KubernetesServer()
    yield server
    server.close()


def test_logs_of_every_rank_are_passed_on_once(server: KubernetesServer, tmp_path: Path, capsys: Captured) -> None:
    launcher = Launcher(make_job(tmp_path), server.client())
    master, worker = start_pods(server)
    for step in range(30):
        if step == 10:
            server.cut_logs_after = 12
        server.say(master, f"[rank 0] step {step}")
        server.say(worker, f"[rank 2] step {step}")
        time.sleep(0.01)
    server.say(worker, "torchrun speaks for itself")
    finish(server, [master, worker])
    assert launcher.result() is None
    lines = capsys.readouterr().out.splitlines()
    for rank in (0, 2):
        assert [line for line in lines if line.startswith(f"[rank {rank}]")] == [
            f"[rank {rank}] step {step}" for step in range(30)
        ]
    assert "[node 1] torchrun speaks for itself" in lines
    assert sum("/log" in request for request in server.requests) > 2, "the connection was cut"


def test_job_is_created_once_under_faults(server: KubernetesServer, tmp_path: Path) -> None:
    server.faults.extend(
        [
            ("GET .*/pytorchjobs/", 503),
            ("POST .*/pytorchjobs", "cut after"),  # created, but nobody was told
            ("GET .*/pytorchjobs/", "cut before"),
            ("GET .*/pods", 500),
            ("GET .*/pods", 429),
        ]
    )
    launcher = Launcher(make_job(tmp_path), server.client())
    finish(server, start_pods(server))
    assert launcher.result() is None
    assert len(server.created) == 1
    assert not server.faults


def test_failing_rank_is_named_with_its_last_lines(server: KubernetesServer, tmp_path: Path, capsys: Captured) -> None:
    launcher = Launcher(make_job(tmp_path), server.client())
    master, worker = start_pods(server)
    server.say(master, "[rank 0] waiting for the others")
    server.say(worker, "[rank 3] ERROR: shard 7 is broken.")
    for line in root_cause(3, 1, 1):
        server.say(worker, line)
    server.end_pod(worker, 1)
    server.set_condition("Failed", "PyTorchJobFailed", "it failed")
    error = launcher.result()
    assert isinstance(error, TrainingFailed)
    assert "rank 3 on node 1 (pod job-worker-0) ended with exit code 1.\nERROR: shard 7 is broken." in str(error)
    # A retry of the step in the same run says the same, and starts nothing.
    again = Launcher(make_job(tmp_path), server.client()).result()
    assert str(again) == str(error)
    assert len(server.created) == 1


def test_another_run_replaces_a_failed_job(server: KubernetesServer, tmp_path: Path) -> None:
    test_failing_rank_is_named_with_its_last_lines(server, tmp_path, None)  # type: ignore[arg-type]
    launcher = Launcher(make_job(tmp_path, run_id="run-2"), server.client())
    wait_for(lambda: len(server.created) == 2)
    finish(server, start_pods(server))
    assert launcher.result() is None


@pytest.mark.parametrize(
    ("prepare", "expected", "type_"),
    [
        (lambda server, pod: server.end_pod(pod, 137, "OOMKilled"), "Raise cluster.gpu_memory", ClusterFailure),
        (
            lambda server, pod: [server.say(pod, line) for line in root_cause(2, 0, -9)] + [server.end_pod(pod, 1)],
            "rank 2 on node 1 (pod job-worker-0) ended with signal 9.",
            ClusterFailure,
        ),
        (
            lambda server, pod: [server.say(pod, line) for line in root_cause(2, 0, 75)] + [server.end_pod(pod, 1)],
            "exit code 75.",
            ClusterFailure,
        ),
        (
            lambda server, pod: (
                server.end_pod(pod, 137),
                server.pods[pod]["status"].update(reason="Evicted", message="low disk"),
            ),
            "was lost (Evicted: low disk).",
            ClusterFailure,
        ),
        (lambda server, pod: server.pods.clear(), "no pod that failed is left", ClusterFailure),
    ],
)
def test_failures_are_told_apart(
    server: KubernetesServer, tmp_path: Path, prepare: Callable[..., Any], expected: str, type_: type[Exception]
) -> None:
    launcher = Launcher(make_job(tmp_path), server.client())
    _, worker = start_pods(server)
    prepare(server, worker)
    server.set_condition("Failed", "PyTorchJobFailed", "it failed")
    error = launcher.result()
    assert isinstance(error, type_), error
    assert expected in str(error)
    assert "No new checkpoint in 1 attempt (cluster.job.tries); the newest is of step 0." in str(error)


def test_traceback_is_told_from_its_beginning(server: KubernetesServer, tmp_path: Path) -> None:
    launcher = Launcher(make_job(tmp_path), server.client())
    _, worker = start_pods(server)
    for line in (
        "step 7",
        "[rank2]: Traceback (most recent call last):",
        '[rank2]:   File "x.py"',
        "[rank2]: ValueError: no",
    ):
        server.say(worker, f"[rank 2] {line}")
    for line in root_cause(2, 0, 1):
        server.say(worker, line)
    server.end_pod(worker, 1)
    server.set_condition("Failed")
    error = launcher.result()
    assert isinstance(error, ClusterFailure), "a defect or a broken node: another try may help"
    assert '\nTraceback (most recent call last):\n  File "x.py"\nValueError: no\n' in str(error)


def test_deadline_is_the_users(server: KubernetesServer, tmp_path: Path) -> None:
    launcher = Launcher(make_job(tmp_path, deadline_s=60), server.client())
    start_pods(server)
    server.set_condition("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
    error = launcher.result()
    assert isinstance(error, TrainingFailed)
    assert "the deadline is over (DeadlineExceeded: Job was active longer" in str(error)
    assert "Raise cluster.job.deadline_s" in str(error)


def test_job_that_may_succeed_is_made_anew(server: KubernetesServer, tmp_path: Path, capsys: Captured) -> None:
    launcher = Launcher(make_job(tmp_path, tries=2), server.client())
    _, worker = start_pods(server)
    server.end_pod(worker, 137)
    server.set_condition("Failed")
    wait_for(lambda: len(server.created) == 2)
    assert len(server.jobs) == 1, "never two at once"
    finish(server, start_pods(server))
    assert launcher.result() is None
    assert (
        "pretrain starts again from the beginning, for nothing is saved yet: ended by a signal (attempt 1 failed, 1 of 2 "
        "without a new checkpoint)"
    ) in capsys.readouterr().out


def test_waiting_job_says_why(server: KubernetesServer, tmp_path: Path, capsys: Captured) -> None:
    said = Said(capsys)
    launcher = Launcher(make_job(tmp_path), server.client())
    said.wait("pretrain waits: in queue gpus: Kueue has not seen the job yet")
    job = server.job()
    message = "couldn't assign flavors to pod set master: insufficient unused quota for nvidia.com/gpu, 8 more needed"
    quota = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": message}
    server.add_workload("w-1", job["metadata"]["uid"], job["metadata"]["name"], [quota])
    said.wait(f"in queue gpus: {message}")
    job["spec"]["runPolicy"]["suspend"] = False
    said.wait("no pods yet: the operator has not made any")
    server.add_event(job["metadata"]["uid"], "FailedCreatePod", 'pods "x" is forbidden: exceeded quota: gpus')
    said.wait("exceeded quota: gpus (ask for less, or for a larger ResourceQuota)")
    refused = (
        'pods "x" is forbidden: violates PodSecurity "baseline:latest": non-default capabilities (container "pytorch" must '
        'not include "IPC_LOCK" in securityContext.capabilities.add)'
    )
    server.add_event(job["metadata"]["uid"], "FailedCreatePod", refused)
    said.wait(f"{refused} (cluster.job.lock_memory needs a namespace")
    master, worker = start_pods(server, phase="Pending")
    for name in (master, worker):
        server.pods[name]["status"]["conditions"] = [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/9 nodes are available: 9 Insufficient nvidia.com/gpu.",
            }
        ]
    said.wait("job-master-0, job-worker-0: Unschedulable: 0/9 nodes are available")
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    server.pods[worker]["status"] |= {
        "conditions": [],
        "containerStatuses": [{"name": "pytorch", "state": {"waiting": waiting}}],
    }
    said.wait("job-worker-0: ImagePullBackOff: Back-off pulling image (is cluster.gpu_image right")
    server.pods[worker]["status"] |= {
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [{"name": "pytorch", "state": {"waiting": {"reason": "ContainerCreating"}}}],
    }
    server.add_event(server.pods[worker]["metadata"]["uid"], "FailedMount", 'claim "vlm-workspace" not found')
    said.wait('job-worker-0: FailedMount: claim "vlm-workspace" not found (is cluster.pvc')
    assert len(said.text) < 3000, "a reason is said once, not at every look"
    finish(server, start_pods(server))
    assert launcher.result() is None


def test_logs_of_a_pod_that_starts_late_are_not_missed(
    server: KubernetesServer, tmp_path: Path, capsys: Captured
) -> None:
    launcher = Launcher(make_job(tmp_path), server.client())
    master, worker = start_pods(server, phase="Pending")
    time.sleep(0.2)
    for name in (master, worker):
        server.pods[name]["status"] |= {"phase": "Running"}
        server.pods[name]["status"]["containerStatuses"][0]["state"] = {"running": {}}
    server.say(worker, "[rank 2] first line")
    server.say(worker, "[rank 2] last line")
    finish(server, [master, worker])
    assert launcher.result() is None
    assert "[rank 2] first line\n[rank 2] last line\n" in capsys.readouterr().out


def test_other_work_of_the_same_name_is_refused(server: KubernetesServer, tmp_path: Path) -> None:
    first = Launcher(make_job(tmp_path), server.client())
    names = start_pods(server)
    error = Launcher(make_job(tmp_path, nodes=1), server.client()).result()
    assert isinstance(error, JobRejected)
    assert "runs already, with other settings" in str(error)
    assert "kubectl -n vlm delete pytorchjobs vlm-pretrain-0123456789abcdef" in str(error)
    finish(server, names)
    assert first.result() is None


def test_orphan_is_taken_over_by_another_run(server: KubernetesServer, tmp_path: Path, capsys: Captured) -> None:
    first = Launcher(make_job(tmp_path), server.client())
    names = start_pods(server)
    second = Launcher(make_job(tmp_path, run_id="run-2"), server.client())
    wait_for(lambda: server.job()["metadata"]["annotations"][OWNER_ANNOTATION] == "run-2")
    finish(server, names)
    assert (first.result(), second.result()) == (None, None)
    assert "taken over from run run-1" in capsys.readouterr().out
    assert len(server.created) == 1


def test_finished_job_of_a_folder_that_is_gone_does_not_count(server: KubernetesServer, tmp_path: Path) -> None:
    first = Launcher(make_job(tmp_path), server.client())
    finish(server, start_pods(server))
    assert first.result() is None
    assert Launcher(make_job(tmp_path), server.client()).result() is None, "a retry takes the result"
    assert len(server.created) == 1
    elsewhere = dataclasses.replace(make_job(tmp_path), log_folder=tmp_path / "other" / "launch" / "logs")
    launcher = Launcher(elsewhere, server.client())
    wait_for(lambda: len(server.created) == 2)
    finish(server, start_pods(server))
    assert launcher.result() is None


def test_job_that_someone_deletes_is_a_cluster_failure(server: KubernetesServer, tmp_path: Path) -> None:
    launcher = Launcher(make_job(tmp_path), server.client())
    start_pods(server)
    server.jobs.clear()
    error = launcher.result()
    assert isinstance(error, ClusterFailure)
    assert "was deleted by someone else" in str(error)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda server: server.missing_apis.add("kubeflow.org"), "Install Kubeflow's training operator"),
        (lambda server: server.faults.append(("POST .*/pytorchjobs", 403)), "manifests/base/rbac.yaml"),
        (lambda server: server.faults.append(("POST .*/pytorchjobs", 422)), "fault 422. Change what it names"),
    ],
)
def test_rejection_says_what_to_do(
    server: KubernetesServer, tmp_path: Path, prepare: Callable[[KubernetesServer], Any], message: str
) -> None:
    prepare(server)
    error = Launcher(make_job(tmp_path), server.client()).result()
    assert isinstance(error, JobRejected)
    assert message in str(error)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            'pytorchjobs.kubeflow.org is forbidden: User "system:serviceaccount:vlm:default-editor" cannot create resource '
            '"pytorchjobs" in API group "kubeflow.org" in the namespace "vlm"',
            "Let this pod's service account get, create",
        ),
        ('pytorchjobs.kubeflow.org "x" is forbidden: exceeded quota: vlm-objects', "Change what it names"),
        ('admission webhook "vpytorchjob.kb.io" denied the request: no such queue', "Change what it names"),
        (
            'pytorchjobs.kubeflow.org "x" is forbidden: unable to create new content in namespace vlm because it is being '
            "terminated",
            "Change what it names",
        ),
    ],
)
def test_missing_rights_are_told_from_the_rules_of_the_namespace(
    server: KubernetesServer, tmp_path: Path, said: str, advice: str
) -> None:
    """All are 403 to a client; only the first is one of the Role."""
    server.faults.append(("POST .*/pytorchjobs", (403, said)))
    error = Launcher(make_job(tmp_path), server.client()).result()
    assert isinstance(error, JobRejected)
    assert f"{said}. {advice}" in str(error)


def test_api_that_stays_away_leaves_the_job_alone(server: KubernetesServer, tmp_path: Path) -> None:
    launcher = Launcher(make_job(tmp_path, api_patience_s=0.5), server.client())
    start_pods(server)
    server.faults.extend([("GET .*/pytorchjobs/", 503)] * 20)
    error = launcher.result()
    assert isinstance(error, ClusterFailure)
    assert "goes on failing: can't look at PyTorchJob" in str(error)
    assert "503 Service Unavailable: fault 503. A PyTorchJob that was made goes on; run again to follow it." in str(
        error
    )
    assert len(server.jobs) == 1


def test_no_cluster_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="There is no Kubernetes cluster to submit to"):
        run_on_cluster(make_job(tmp_path))


def start_process(job: TrainingJob, server: KubernetesServer, folder: Path) -> "subprocess.Popen[str]":
    """A launcher in a process of its own, with credentials from a kubeconfig."""
    write_kubeconfig(folder / "kubeconfig", server.url)
    code = f"""
        import sys, time
        from pathlib import Path
        from components.launch.cluster import run_on_cluster
        from tests.support.launching import make_job
        folder = Path({str(folder)!r})
        try:
            run_on_cluster(make_job(folder, {job.run_id!r}))
        except KeyboardInterrupt:
            (folder / "cleaned_up").touch()
            while not (folder / "may_end").exists():
                time.sleep(0.02)
            sys.exit(130)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": str(folder / "kubeconfig")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_killed_launcher_finds_its_job_again(server: KubernetesServer, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    first = start_process(job, server, tmp_path)
    master, worker = start_pods(server)
    wait_for(lambda: any("/log" in request for request in server.requests))
    first.kill()
    first.communicate()
    assert len(server.jobs) == 1
    second = start_process(job, server, tmp_path)
    assert second.stdout is not None
    assert "found again" in second.stdout.readline()
    server.say(worker, "[rank 2] still here")
    finish(server, [master, worker])
    output, _ = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 0, output
    assert "[rank 2] still here" in output
    assert len(server.created) == 1


@pytest.mark.parametrize("owner", ["run-1", "run-2"])
def test_told_to_stop_deletes_its_own_job_alone(server: KubernetesServer, tmp_path: Path, owner: str) -> None:
    process = start_process(make_job(tmp_path), server, tmp_path)
    start_pods(server)
    wait_for(lambda: any("/log" in request for request in server.requests))
    server.job()["metadata"]["annotations"][OWNER_ANNOTATION] = owner
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # an impatient kubelet
    wait_for((tmp_path / "cleaned_up").exists)
    process.send_signal(signal.SIGTERM)  # while the stage writes how it ended
    (tmp_path / "may_end").touch()
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, output
    deletes = [request for request in server.requests if request.startswith("DELETE")]
    assert bool(deletes) == (owner == "run-1")
    assert ("deleted: the run was told to stop" in output) == (owner == "run-1")


def test_rendered_job_trains_on_two_nodes_with_torchrun(
    server: KubernetesServer, tmp_path: Path, capsys: Captured
) -> None:
    """Pods are processes here: the rendered command, with the variables that the operator sets, is what runs."""
    (tmp_path / "job_under_test.py").write_text(
        textwrap.dedent("""
        import os, sys, torch, torch.distributed as dist
        dist.init_process_group("gloo")
        total = torch.tensor([float(dist.get_rank())])
        dist.all_reduce(total)
        print(f"sum {total.item():.0f} of {dist.get_world_size()}, {sys.argv[1]}", flush=True)
        dist.barrier()
        if dist.get_rank() == 1:
            print("ERROR: rank 1 had enough", file=sys.stderr, flush=True)
            sys.exit(1)
        """)
    )

    def operate(job: Object) -> None:
        threading.Thread(target=_run_pods, args=(server, job, tmp_path), daemon=True).start()

    server.on_create = operate
    error = Launcher(make_job(tmp_path, processes=1, poll_s=0.2, rendezvous_timeout_s=60), server.client())
    error.join(timeout=PATIENCE_S)
    assert isinstance(error.error, TrainingFailed), error.error
    assert "rank 1 on node 1 (pod job-worker-0) ended with exit code 1.\nERROR: rank 1 had enough" in str(error.error)
    output = capsys.readouterr().out
    for rank in range(2):
        assert f"[rank {rank}] sum 1 of 2, argument" in output


def test_rank_of_a_second_node_that_is_killed_costs_an_attempt(
    server: KubernetesServer, tmp_path: Path, capsys: Captured
) -> None:
    """Killed with -9 between two collectives, as real processes: both nodes end, and both start again."""
    (tmp_path / "job_under_test.py").write_text(
        textwrap.dedent(f"""
        import os, pathlib, signal, torch, torch.distributed as dist
        dist.init_process_group("gloo")
        marker = pathlib.Path({str(tmp_path)!r}, "was_killed")
        for step in range(5):
            dist.all_reduce(torch.ones(1))
            if dist.get_rank() == 1 and step == 2 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        print("all steps done", flush=True)
        dist.barrier()
        dist.destroy_process_group()
        """)
    )
    server.on_create = lambda job: threading.Thread(target=_run_pods, args=(server, job, tmp_path), daemon=True).start()
    launcher = Launcher(
        make_job(tmp_path, processes=1, poll_s=0.2, rendezvous_timeout_s=60, tries=2), server.client(), patience_s=300
    )
    assert launcher.result() is None
    output = capsys.readouterr().out
    assert "failed: rank 1 on node 1 (pod job-worker-0) ended with signal 9." in output
    assert (
        "pretrain starts again from the beginning, for nothing is saved yet: ended by a signal (attempt 1 failed"
        in output
    )
    assert [f"[rank {rank}] all steps done" in output for rank in range(2)] == [True, True]
    assert len(server.created) == 2


def _run_pods(server: KubernetesServer, job: Object, folder: Path) -> None:
    """Play operator and kubelet: a process per pod, its output as the pod's log, its exit code as the pod's."""
    port = str(free_port())
    readers = []
    for node, name in enumerate(["job-master-0", "job-worker-0"]):
        container = job["spec"]["pytorchReplicaSpecs"]["Worker" if node else "Master"]["template"]["spec"][
            "containers"
        ][0]
        variables = {"RANK": str(node), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, *container["command"][1:]]
        for variable, value in variables.items():
            command = [part.replace(f"$({variable})", value) for part in command]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment, **variables, "PYTHONPATH": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        server.add_pod(name, pod_labels(server, node))
        reader = threading.Thread(target=_log_process, args=(server, name, process), daemon=True)
        reader.start()
        readers.append((name, process, reader))
    server.set_condition("Running")
    name, process, reader = readers[1]
    reader.join()
    server.end_pod(name, code := process.wait())
    if code == 0:
        readers[0][2].join()
        server.end_pod(readers[0][0], readers[0][1].wait())
        server.set_condition("Succeeded")
        return
    master = server.pods[readers[0][0]]
    server.set_condition("Failed", "PyTorchJobFailed", "worker 0 failed")
    readers[0][1].terminate()  # what cleanPodPolicy Running does
    readers[0][1].wait()
    with server.lock:
        if server.pods.get(readers[0][0]) is master:  # and not already that of the next attempt
            del server.pods[readers[0][0]]


def _log_process(server: KubernetesServer, name: str, process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        server.say(name, line.rstrip("\n"))
