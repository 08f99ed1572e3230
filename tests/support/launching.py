"""A launcher in a thread, and what a training job's pods do meanwhile."""

import threading
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiClient

from components.launch.attempts import keep_trying
from components.launch.cluster import run_on_cluster
from components.launch.config import Backend, ClusterConfig, LaunchConfig
from components.launch.job import JobProgress, NoProgress, TrainingJob
from tests.support.kubernetes_server import KubernetesServer, Object
from tests.support.waiting import PATIENCE_S, wait_for

PREFIX = "training.kubeflow.org"


def make_job(
    tmp_path: Path,
    run_id: str = "run-1",
    nodes: int = 2,
    processes: int = 2,
    backend: Backend = "pytorchjob",
    progress: JobProgress | None = None,
    **job: Any,
) -> TrainingJob:
    return TrainingJob(
        name="pretrain",
        module="job_under_test",
        arguments=["argument"],
        log_folder=tmp_path / "launch" / "logs",
        config=LaunchConfig(backend=backend, nodes=nodes, processes_per_node=processes, tensor_parallel=processes),
        key="0123456789abcdef",
        run_id=run_id,
        workspace=tmp_path,
        cluster=ClusterConfig.model_validate(
            {
                "pvc": "vlm-workspace",
                "job": {"namespace": "vlm", "queue": "gpus", "poll_s": 0.03, "api_patience_s": 10, "tries": 1, **job},
            }
        ),
        progress=progress or NoProgress(),
    )


def pod_labels(server: KubernetesServer, node: int) -> Object:
    name = server.job()["metadata"]["name"]
    role, index = ("master", 0) if node == 0 else ("worker", node - 1)
    return {f"{PREFIX}/job-name": name, f"{PREFIX}/replica-type": role, f"{PREFIX}/replica-index": str(index)}


class Launcher(threading.Thread):
    """A launcher in a thread of its own, with what it raised."""

    def __init__(self, job: TrainingJob, connection: ApiClient, patience_s: float = PATIENCE_S) -> None:
        super().__init__(daemon=True)
        self.job, self.connection, self.patience_s = job, connection, patience_s
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            keep_trying(self.job, lambda: run_on_cluster(self.job, self.connection))
        except BaseException as error:
            self.error = error

    def result(self) -> BaseException | None:
        self.join(timeout=self.patience_s)
        assert not self.is_alive(), "the launcher still waits"
        return self.error


class Said:
    """What was printed so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.text = ""

    def has(self, text: str) -> bool:
        self.text += self._capsys.readouterr().out
        return text in self.text

    def wait(self, text: str) -> None:
        wait_for(lambda: self.has(text))


def start_pods(server: KubernetesServer, phase: str = "Running") -> list[str]:
    wait_for(lambda: server.jobs)
    names = ["job-master-0", "job-worker-0"]
    for node, name in enumerate(names):
        server.add_pod(name, pod_labels(server, node), phase)
    if phase == "Running":
        server.set_condition("Running")
    return names


def finish(server: KubernetesServer, names: list[str]) -> None:
    for name in names:
        server.end_pod(name, 0)
    server.set_condition("Succeeded")
