"""The small pipeline on a cluster that has Kubeflow Pipelines and an operator: two nodes, kills, a cancel; a table tells what happened.

Needs VLM_TEST_KUBECONFIG (an administrator's) of a cluster for tests with single-user Kubeflow Pipelines in the namespace `kubeflow`, and
VLM_TEST_CPU_IMAGE, which its nodes can pull. Everything that it makes there is removed at the end. About an hour.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from components.launch.cluster import JOB_KINDS
from components.launch.pod import RUN_LABEL
from pipelines.doctor.finding import Mark, show
from tests.support.cluster_trial import (
    Surroundings,
    Trial,
    pod_security_warnings,
    surroundings,
    trial_settings,
    wait_until,
    write_overlay,
)

KUBECONFIG = os.environ.get("VLM_TEST_KUBECONFIG", "")
IMAGE = os.environ.get("VLM_TEST_CPU_IMAGE", "")
NAMESPACE = "kubeflow"
ENFORCE = "pod-security.kubernetes.io/enforce"
START_S, RUN_S, END_S = 900.0, 5400.0, 600.0
pytestmark = [
    pytest.mark.skipif(not KUBECONFIG, reason="VLM_TEST_KUBECONFIG names no cluster (manifests/README.md)"),
    pytest.mark.skipif(not IMAGE, reason="VLM_TEST_CPU_IMAGE names no image that the cluster can pull"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]


def kubectl(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = ["kubectl", "--kubeconfig", KUBECONFIG, "--namespace", NAMESPACE, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, input=given, check=False)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result


def items(kind: str, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl("get", kind, *arguments, "--output", "json").stdout)["items"]
    return found


@contextmanager
def forwarded(service: str, port: int) -> Iterator[str]:
    """The URL of a service of the cluster on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        here = free.getsockname()[1]
    command = [
        "kubectl",
        "--kubeconfig",
        KUBECONFIG,
        "-n",
        NAMESPACE,
        "port-forward",
        f"svc/{service}",
        f"{here}:{port}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(f"port-forward to {service}", lambda: _listens(here), 60)
        yield f"http://127.0.0.1:{here}"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def here() -> Surroundings:
    """What the cluster has; without Kubeflow Pipelines and an operator there is nothing to try."""
    found = surroundings(items("deployments", "--all-namespaces"))
    if not found.kfp or not found.operators:
        pytest.skip(f"this cluster has {found.words}")
    if not items("serviceaccounts", "--field-selector", "metadata.name=pipeline-runner"):
        pytest.skip("Kubeflow Pipelines is not a single-user installation in the namespace kubeflow")
    return found


@pytest.fixture(scope="module")
def installed(here: Surroundings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Our manifests in the cluster, MLflow running."""
    if items("persistentvolumeclaims", "--field-selector", "metadata.name=vlm-workspace"):
        pytest.fail(f"the namespace {NAMESPACE} has a claim vlm-workspace, which this test would delete")
    overlay = str(write_overlay(tmp_path_factory.mktemp("overlay"), IMAGE))
    try:
        password, key = secrets.token_hex(16), secrets.token_hex(16)
        kubectl("create", "secret", "generic", "vlm-postgres", f"--from-literal=password={password}")
        kubectl(
            "create", "secret", "generic", "vlm-s3", "--from-literal=access-key=vlm", f"--from-literal=secret-key={key}"
        )
        kubectl("apply", "--kustomize", overlay)
        kubectl("rollout", "status", "deployment/mlflow", "--timeout=15m")
        yield
    finally:
        for kind in JOB_KINDS.values():
            if f"{kind.plural}.{kind.group}" in kubectl("api-resources", "--output", "name").stdout:
                kubectl("delete", f"{kind.plural}.{kind.group}", "-l", "app.kubernetes.io/part-of=vlm-pipelines")
        kubectl("delete", "--kustomize", overlay, "--ignore-not-found", "--wait=false")
        kubectl("delete", "secret", "vlm-postgres", "vlm-s3", "--ignore-not-found")


@dataclass(frozen=True)
class Runs:
    """Runs of the small preset, by `vlm`."""

    endpoint: str
    backend: str

    def vlm(self, *arguments: str, check: bool = True) -> str:
        command = [sys.executable, "-m", "pipelines.cli", *arguments, "--endpoint", self.endpoint]
        environment = {**os.environ, "KUBECONFIG": KUBECONFIG}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert not check or result.returncode == 0, f"{' '.join(command)}: {result.stdout}{result.stderr}"
        return result.stdout

    def submit(self, *more: str) -> str:
        said = self.vlm("submit", "--detach", *trial_settings(IMAGE, self.backend, *more))
        found = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", said)
        assert found, said
        return found[0]

    def state(self, run_id: str) -> str:
        from components.runs.kfp import KfpRuns

        return KfpRuns(self.endpoint).get(run_id).state

    def job(self, run_id: str) -> dict[str, Any] | None:
        kind = JOB_KINDS[self.backend]
        found = items(f"{kind.plural}.{kind.group}", "-l", f"{RUN_LABEL}={run_id}")
        return found[-1] if found else None

    def trainers(self, job: dict[str, Any]) -> dict[str, str]:
        """A job's running pods, uid to name: a job that is made anew has pods of the same names."""
        selector = JOB_KINDS[self.backend].pod_selector(job["metadata"]["name"])
        found = [pod for pod in items("pods", "-l", selector) if pod["status"]["phase"] == "Running"]
        return {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in found}

    def training(self, run_id: str) -> dict[str, Any] | None:
        """The run's job, when pods of both nodes run."""
        job = self.job(run_id)
        return job if job and len(self.trainers(job)) == 2 else None

    def stages(self, run_id: str) -> list[str]:
        """Names of the running pods of a run's own tasks; the launcher's is one of them."""
        found = items("pods", "-l", f"pipeline/runid={run_id}")
        return [pod["metadata"]["name"] for pod in found if pod["status"]["phase"] == "Running"]

    def succeeded(self, run_id: str) -> bool:
        state = self.state(run_id)
        assert state not in ("failed", "cancelled", "skipped"), f"the run {run_id} ended as {state}"
        return state == "succeeded"


@pytest.mark.usefixtures("installed")
def test_the_small_run_survives_what_clusters_do(here: Surroundings, capsys: pytest.CaptureFixture[str]) -> None:
    trial = Trial()
    trial.note("cluster", Mark.FACT, here.words)
    try:
        with forwarded("ml-pipeline", 8888) as endpoint:
            runs = Runs(endpoint, here.operators[0])
            _survives(trial, runs)
            _reuses(trial, runs)
            _cancels(trial, runs)
    finally:
        with capsys.disabled():
            print()
            show(trial.findings, Console(width=160))


def _survives(trial: Trial, runs: Runs) -> None:
    with trial.step("doctor") as said:
        table = runs.vlm(
            "doctor", "--cluster", "--pods", "--namespace", NAMESPACE, *trial_settings(IMAGE, runs.backend), check=False
        )
        said.append(table.strip().splitlines()[-1])
    with trial.step("submit") as said:
        run_id = runs.submit("name=survives")
        said.append(run_id)
    with trial.step("two nodes train"):
        job = wait_until("a training job with two pods", lambda: runs.training(run_id), START_S)
    _note_what_is_enforced(trial)
    with trial.step("launcher killed") as said:
        killed = runs.stages(run_id)
        assert killed, "no launcher runs"
        kubectl("delete", "pods", *killed, "--wait=false")
        wait_until("another launcher", lambda: set(runs.stages(run_id)) - set(killed), END_S)
        # A launcher that is told to end ends its job; one that has no time to leaves it to the next.
        again = wait_until("the training to go on", lambda: runs.training(run_id), END_S)
        kept = again["metadata"]["uid"] == job["metadata"]["uid"]
        said.append("the job was found again" if kept else "the job was made anew")
    with trial.step("MLflow killed"):
        kubectl("delete", "pods", "-l", "app.kubernetes.io/name=mlflow", "--wait=false")
        time.sleep(5)
        kubectl("rollout", "status", "deployment/mlflow", "--timeout=10m")
    with trial.step("trainer killed") as said:
        found = runs.training(run_id)
        assert found, "the training was over before it could be killed: choose more pretrain.recipe.iterations"
        before = runs.trainers(found)
        uid, name = next(reversed(before.items()))
        kubectl("delete", "pod", name, "--wait=false")
        wait_until("two pods without it", lambda: _without(uid, runs, run_id), END_S)
        said.append(f"{name} replaced")
    with trial.step("run succeeds"):
        wait_until(f"the run {run_id} to succeed", lambda: runs.succeeded(run_id), RUN_S)


def _without(uid: str, runs: Runs, run_id: str) -> bool:
    """Tell whether both nodes train and a pod is gone."""
    job = runs.training(run_id)
    return job is not None and uid not in runs.trainers(job)


def _note_what_is_enforced(trial: Trial) -> None:
    """Tell which quotas and network policies are here, and whether the namespace enforces `restricted`.

    Where it does not, the server is asked what it would say to the pods that run now.
    """
    quotas = [quota["metadata"]["name"] for quota in items("resourcequotas")]
    policies = [policy["metadata"]["name"] for policy in items("networkpolicies")]
    trial.note("quotas", Mark.FACT, ", ".join(quotas) or "none")
    trial.note("network policies", Mark.FACT, ", ".join(policies) or "none")
    space = json.loads(kubectl("get", "namespace", NAMESPACE, "--output", "json").stdout)
    level = (space["metadata"].get("labels") or {}).get(ENFORCE, "privileged")
    if level == "restricted":
        trial.note("pod security", Mark.GOOD, "restricted is enforced: every pod here passed it")
        return
    said = kubectl("label", "--dry-run=server", "--overwrite", "namespace", NAMESPACE, f"{ENFORCE}=restricted").stderr
    refused = pod_security_warnings(said)
    would = f"would refuse {'; '.join(refused)}" if refused else "would take every pod of ours that runs now"
    trial.note("pod security", Mark.FACT, f"{level} is enforced; restricted {would}")


def _reuses(trial: Trial, runs: Runs) -> None:
    with trial.step("same run again") as said:
        run_id = runs.submit("name=reuses")
        wait_until(f"the run {run_id} to succeed", lambda: runs.succeeded(run_id), RUN_S)
        assert runs.job(run_id) is None, "it trained again"
        said.append("everything was reused")


def _cancels(trial: Trial, runs: Runs) -> None:
    with trial.step("cancel in training") as said:
        run_id = runs.submit("name=cancelled", "pretrain.recipe.iterations=100000")
        wait_until("a training job with two pods", lambda: runs.training(run_id), START_S)
        runs.vlm("cancel", run_id)
        wait_until("job and pods to go", lambda: not runs.job(run_id) and not runs.stages(run_id), END_S)
        said.append(f"nothing is left; KFP says {runs.state(run_id)}")
