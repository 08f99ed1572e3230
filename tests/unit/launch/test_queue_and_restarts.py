"""Queues, preemptions, pods that come and go, and jobs that will never start: what the launcher says and does."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from components.launch import trainjob
from components.launch.api import ClusterApi
from components.launch.config import Backend
from components.launch.errors import ClusterFailure, JobRejected, TrainingFailed
from components.launch.runtime import OURS
from components.launch.submission import Submission
from tests.support.kubernetes_server import KubernetesServer, Object
from tests.support.launching import Launcher, Said, finish, make_job, start_pods
from tests.support.paths import ROOT
from tests.support.torchrun_lines import root_cause
from tests.support.waiting import wait_for

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def server() -> Iterator[KubernetesServer]:
    server = KubernetesServer()
    server.runtimes["vlm-torch"] = next(yaml.safe_load_all((ROOT / OURS).read_text()))
    yield server
    server.close()


def condition(type_: str, status: str, reason: str, message: str) -> Object:
    return {"type": type_, "status": status, "reason": reason, "message": message}


def preempt(server: KubernetesServer, by: str) -> None:
    """What Kueue 0.17 does to a job whose place another one takes: suspended, its pods deleted, its conditions in this order."""
    job = server.job()
    message = (
        f"Preempted to accommodate a workload (UID: {by}, JobUID: job-{by}) due to prioritization in the ClusterQueue; preemptor "
        "path: /gpus; preemptee path: /gpus"
    )
    server.workloads[:] = [one for one in server.workloads if one["metadata"]["uid"] != "own"]
    server.add_workload(
        "own",
        job["metadata"]["uid"],
        job["metadata"]["name"],
        [
            condition(
                "QuotaReserved", "False", "Pending", "couldn't assign flavors to pod set master: insufficient quota"
            ),
            condition("Evicted", "True", "Preempted", message),
            condition("Preempted", "True", "InClusterQueue", message),
        ],
    )
    server.set_condition("Suspended", "PyTorchJobSuspended", f"PyTorchJob {job['metadata']['name']} is suspended.")
    for name in list(server.pods):
        server.end_pod(name, 75)
        del server.pods[name]


@pytest.mark.parametrize("backend", ["pytorchjob", "trainjob"])
def test_preempted_job_says_by_what_and_goes_on_with_every_line_once(
    server: KubernetesServer, tmp_path: Path, capsys: Captured, backend: Backend
) -> None:
    start = start_pods if backend == "pytorchjob" else trainjob_pods
    said = Said(capsys)
    launcher = Launcher(make_job(tmp_path, backend=backend), server.client())
    names = start(server)
    for name, rank in zip(names, (0, 2), strict=True):
        server.say(name, f"[rank {rank}] step 310")
    for rank in (0, 2):
        said.wait(f"[rank {rank}] step 310")
    server.add_workload("w-urgent", "job-w-urgent", "urgent", [], priority=1000)
    preempt(server, "w-urgent")
    said.wait("pretrain waits: preempted: Preempted to accommodate a workload (UID: w-urgent")
    said.wait("preemptee path: /gpus (by PyTorchJob urgent, priority 1000)")
    said.wait("in queue gpus: couldn't assign flavors to pod set master: insufficient quota")
    # Admitted again: pods with other uids, a PyTorchJob's of the same names.
    names = start(server)
    for step in range(311, 320):
        for name, rank in zip(names, (0, 2), strict=True):
            server.say(name, f"[rank {rank}] step {step}")
        time.sleep(0.02)
    said.wait("pretrain starts again on node")
    for name in names:
        server.end_pod(name, 0)
    server.set_condition("Succeeded" if backend == "pytorchjob" else "Complete")
    assert launcher.result() is None
    said.has("")
    lines = said.text.splitlines()
    for rank in (0, 2):
        assert [line for line in lines if line.startswith(f"[rank {rank}]")] == [
            f"[rank {rank}] step {step}" for step in range(310, 320)
        ]


def test_preemptor_of_another_namespace_is_not_known_by_name(
    server: KubernetesServer, tmp_path: Path, capsys: Captured
) -> None:
    said = Said(capsys)
    launcher = Launcher(make_job(tmp_path), server.client())
    start_pods(server)
    said.wait("created")
    preempt(server, "w-elsewhere")
    said.wait("(by a job of another namespace)")
    finish(server, start_pods(server))
    assert launcher.result() is None


def test_eviction_for_pods_that_were_not_ready_is_said(
    server: KubernetesServer, tmp_path: Path, capsys: Captured
) -> None:
    said = Said(capsys)
    launcher = Launcher(make_job(tmp_path), server.client())
    job = wait_for(lambda: server.jobs and server.job())
    message = "Exceeded the PodsReady timeout vlm/pytorchjob-vlm-pretrain"
    server.add_workload("own", job["metadata"]["uid"], "x", [condition("Evicted", "True", "PodsReadyTimeout", message)])
    said.wait(f"pretrain waits: evicted (PodsReadyTimeout): {message}")
    finish(server, start_pods(server))
    assert launcher.result() is None


def test_reason_of_pods_that_are_gone_comes_from_the_lines_that_were_followed(
    server: KubernetesServer, tmp_path: Path, capsys: Captured
) -> None:
    """JobSet removes the pods of a job that failed before anybody could ask for their logs."""
    said = Said(capsys)
    launcher = Launcher(make_job(tmp_path), server.client())
    master, worker = start_pods(server)
    server.say(master, "[rank 0] waiting for the others")
    server.say(worker, "[rank 3] ERROR: The loss of step 7 is nan: training diverged. Lower recipe.learning_rate.")
    last = root_cause(3, 1, 1)
    for line in last:
        server.say(worker, line)
    said.wait("[rank 0] waiting for the others")
    said.wait(last[-1])
    with server.lock:
        server.pods.clear()
        server.set_condition("Failed", "FailedJobs", "jobset failed due to one or more job failures")
    error = launcher.result()
    assert isinstance(error, TrainingFailed), error
    assert "rank 3 on node 1 (pod job-worker-0) ended with exit code 1.\nERROR: The loss of step 7 is nan" in str(error)


@pytest.mark.parametrize("phase", ["Pending", "Running"])
def test_image_that_is_not_there_ends_at_once(server: KubernetesServer, tmp_path: Path, phase: str) -> None:
    """Also where the other pods run: one node may not pull it."""
    launcher = Launcher(make_job(tmp_path), server.client())
    _, worker = start_pods(server, phase=phase)
    server.pods[worker]["status"]["phase"] = "Pending"
    message = (
        'failed to pull and unpack image "registry.example/vlm/gpu:nope": failed to resolve reference '
        '"registry.example/vlm/gpu:nope": registry.example/vlm/gpu:nope: not found'
    )
    server.job()["spec"]["runPolicy"]["suspend"] = False
    server.pods[worker]["status"]["containerStatuses"] = [
        {"name": "pytorch", "state": {"waiting": {"reason": "ErrImagePull", "message": message}}}
    ]
    error = launcher.result()
    assert isinstance(error, TrainingFailed), error
    assert f"can't start: pod job-worker-0: ErrImagePull: {message}. Correct cluster.gpu_image" in str(error)
    wait_for(lambda: not server.jobs)


def test_registry_that_is_away_is_waited_for(server: KubernetesServer, tmp_path: Path, capsys: Captured) -> None:
    """Recorded on Kubernetes 1.34."""
    said = Said(capsys)
    launcher = Launcher(make_job(tmp_path), server.client())
    _, worker = start_pods(server, phase="Pending")
    server.job()["spec"]["runPolicy"]["suspend"] = False
    message = (
        'failed to pull and unpack image "registry.example/vlm/cpu:nope": failed to resolve reference '
        '"registry.example/vlm/cpu:nope": failed to do request: Head "https://registry.example/v2/vlm/cpu/manifests/nope": dial '
        "tcp: lookup registry.example on 10.96.0.10:53: no such host"
    )
    server.pods[worker]["status"]["containerStatuses"] = [
        {"name": "pytorch", "state": {"waiting": {"reason": "ErrImagePull", "message": message}}}
    ]
    said.wait("no such host (is cluster.gpu_image right")
    finish(server, start_pods(server))
    assert launcher.result() is None


def test_webhook_that_is_not_ready_is_shown_and_told_truly(
    server: KubernetesServer, tmp_path: Path, capsys: Captured
) -> None:
    message = (
        'Internal error occurred: failed calling webhook "validator.pytorchjob.training-operator.kubeflow.org": failed to call '
        'webhook: Post "https://training-operator.kubeflow.svc:443/validate-kubeflow-org-v1-pytorchjob?timeout=10s": no endpoints '
        'available for service "training-operator"'
    )
    server.faults.extend([("POST .*/pytorchjobs", (500, message))] * 20)
    error = Launcher(make_job(tmp_path, api_patience_s=0.6), server.client()).result()
    assert isinstance(error, ClusterFailure)
    assert "goes on failing: can't create PyTorchJob vlm-pretrain-0123456789abcdef" in str(error)
    assert 'no endpoints available for service "training-operator"' in str(error)
    assert "As far as is known no PyTorchJob was made." in str(error)
    assert "The job goes on" not in str(error)
    assert "no endpoints available" in capsys.readouterr().out, "while it is tried again"


def test_pod_that_the_operator_leaves_dead_is_not_waited_for(
    server: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.launch.cluster.DYING_S", 0.2)
    launcher = Launcher(make_job(tmp_path, grace_s=1), server.client())
    _, worker = start_pods(server)
    server.end_pod(worker, 137)
    error = launcher.result()
    assert isinstance(error, ClusterFailure)
    assert "node 1 (pod job-worker-0) ended with exit code 137" in str(error)
    wait_for(lambda: not server.jobs)


def test_pod_of_a_lost_node_is_not_waited_for(
    server: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Its node answers nobody: the taint manager deletes the pod, which never ends; the job goes on as if it ran."""
    for room in ("cluster", "submission"):
        monkeypatch.setattr(f"components.launch.{room}.DYING_S", 0.2)
    said = Said(capsys)
    launcher = Launcher(make_job(tmp_path, tries=2, grace_s=1), server.client())
    _, worker = start_pods(server)
    pod = server.pods[worker]
    pod["metadata"]["deletionTimestamp"] = "2026-11-27T12:00:00Z"
    pod["spec"] = {"nodeName": "gpu-7"}
    server.keeps_deleted = True
    said.wait("failed: pod job-worker-0 on node gpu-7 was deleted and does not end.")
    said.wait("pod job-worker-0 of the job before does not end: is node gpu-7 lost?")
    said.wait("kubectl -n vlm delete pod job-worker-0 --force")
    server.keeps_deleted = False
    wait_for(lambda: len(server.created) == 2)
    finish(server, start_pods(server))
    assert launcher.result() is None


def test_training_that_gets_no_further_is_ended_and_made_anew(
    server: KubernetesServer, tmp_path: Path, capsys: Captured
) -> None:
    launcher = Launcher(make_job(tmp_path, tries=2, stall_s=1.0), server.client())
    master, worker = start_pods(server)
    server.say(master, "[rank 0] pretrain: training 310/400 steps")
    server.say(worker, "[rank 2] waiting for rank 0")
    server.say(worker, "[rank 2] Timeout (0:00:00.750000)!")
    server.say(worker, "[rank 2] Thread 0x00007f0000000000 (most recent call first):")
    server.say(worker, '[rank 2]   File "/app/trainer.py", line 7 in all_reduce')
    wait_for(lambda: len(server.created) == 2)
    finish(server, start_pods(server))
    assert launcher.result() is None
    output = capsys.readouterr().out
    assert "got no further: no line and no step for" in output
    assert "rank 0 said last: pretrain: training 310/400 steps\n" in output
    assert 'rank 2 said last: waiting for rank 0\n  File "/app/trainer.py", line 7 in all_reduce\n' in output
    assert "pretrain starts again from the beginning, for nothing is saved yet: no progress" in output


def test_job_in_a_queue_is_never_stuck(server: KubernetesServer, tmp_path: Path) -> None:
    launcher = Launcher(make_job(tmp_path, stall_s=0.2), server.client())
    wait_for(lambda: server.jobs)
    time.sleep(1)
    finish(server, start_pods(server))
    assert launcher.result() is None


# TrainJobs


def trainjob_pods(server: KubernetesServer) -> list[str]:
    name = wait_for(lambda: server.jobs and server.job())["metadata"]["name"]
    names = [f"{name}-node-0-{index}-x{index}" for index in range(2)]
    for index, pod in enumerate(names):
        labels = {
            "jobset.sigs.k8s.io/jobset-name": name,
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "batch.kubernetes.io/job-completion-index": str(index),
        }
        server.add_pod(pod, labels, container="node")
    status = server.job().setdefault("status", {})
    status["conditions"] = []
    status |= {"jobsStatus": [{"name": "node", "active": 1, "ready": 1}]}
    return names


def test_runtime_that_restarts_is_refused_before_anything_is_made(server: KubernetesServer, tmp_path: Path) -> None:
    pod = server.runtimes["vlm-torch"]["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod["template"]["spec"]["restartPolicy"] = "OnFailure"
    error = Launcher(make_job(tmp_path, backend="trainjob"), server.client()).result()
    assert isinstance(error, JobRejected)
    assert "restarts ranks that fail in place (restartPolicy OnFailure" in str(error)
    assert server.created == []


def test_missing_right_to_read_runtimes_is_named(server: KubernetesServer, tmp_path: Path) -> None:
    said = (
        'clustertrainingruntimes.trainer.kubeflow.org "vlm-torch" is forbidden: User "system:serviceaccount:vlm:default-editor" '
        'cannot get resource "clustertrainingruntimes" in API group "trainer.kubeflow.org" at the cluster scope'
    )
    server.faults.append(("GET .*/clustertrainingruntimes/", (403, said)))
    error = Launcher(make_job(tmp_path, backend="trainjob"), server.client()).result()
    assert isinstance(error, JobRejected)
    assert f"{said}. Let this pod's service account get clustertrainingruntimes.trainer.kubeflow.org ({OURS})" in str(
        error
    )


def test_trainjob_that_can_never_be_made_ends_the_wait(server: KubernetesServer, tmp_path: Path) -> None:
    launcher = Launcher(make_job(tmp_path, backend="trainjob", queue=""), server.client())
    job = wait_for(lambda: server.jobs and server.job())
    message = (
        'TrainJob resources reconciliation failed: admission webhook "vjobset.kb.io" denied the request: spec.replicatedJobs: '
        "Invalid value: " + "x" * 900 + ": field is immutable ..."
    )
    server.add_event(job["metadata"]["uid"], "TrainJobResourcesCreationFailed", message)
    error = launcher.result()
    assert isinstance(error, TrainingFailed), error
    assert "can't start: TrainJobResourcesCreationFailed: TrainJob resources reconciliation failed" in str(error)
    assert len(str(error)) < 900, "the message repeats the whole object"
    wait_for(lambda: not server.jobs)


@pytest.mark.parametrize("queued", [False, True])
def test_cancelled_trainjob_is_suspended_before_it_is_deleted(
    server: KubernetesServer, tmp_path: Path, queued: bool
) -> None:
    """Deleted at once, its Job would make new pods for those that the deletion ends."""
    order: list[str] = []

    def suspended(job: Object) -> None:
        order.append("suspended")
        job["status"] = {"conditions": [condition("Suspended", "True", "Suspended", "TrainJob is suspended")]}

    server.on_patch = suspended
    server.on_delete = lambda job: order.append("deleted")
    job = make_job(tmp_path, backend="trainjob", queue="gpus" if queued else "")
    submission = Submission(job, trainjob.KIND, ClusterApi(server.client(), "vlm", trainjob.KIND, 10))
    submission.attach()
    if not queued:
        trainjob_pods(server)
    submission.cancel()
    assert order == (["deleted"] if queued else ["suspended", "deleted"])


def test_trainjob_is_followed_to_its_end(server: KubernetesServer, tmp_path: Path, capsys: Captured) -> None:
    launcher = Launcher(make_job(tmp_path, backend="trainjob", queue=""), server.client())
    names = trainjob_pods(server)
    server.say(names[1], "[rank 2] step 1")
    for name in names:
        server.end_pod(name, 0)
    server.set_condition("Complete", "AllJobsCompleted", "jobset completed successfully")
    assert launcher.result() is None
    assert "[rank 2] step 1" in capsys.readouterr().out
