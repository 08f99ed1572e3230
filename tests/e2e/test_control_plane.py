"""Launcher and manifests against a real Kubernetes API server, whose authorization, admission and deletion are its own.

Needs VLM_TEST_KUBECONFIG: an administrator's kubeconfig of a cluster for tests (kind, minikube) without a namespace `vlm-pipelines`. What the
training operator writes into a job's status is written here; where the real one runs, which would write too, tests that do so are skipped
(test_cluster_run.py tries the real one).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException

from components.launch.cluster import JOB_KINDS
from components.launch.config import ClusterConfig, LaunchConfig
from components.launch.errors import ClusterFailure, JobRejected, TrainingFailed
from components.launch.job import TrainingJob
from components.launch.job_kind import JobKind
from components.launch.pod import OWNER_ANNOTATION
from tests.support.cluster_trial import surroundings
from tests.support.kubernetes_schemas import SCHEMAS
from tests.support.launching import Launcher
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

KUBECONFIG = os.environ.get("VLM_TEST_KUBECONFIG", "")
NAMESPACE = "vlm-pipelines"
MANIFESTS = ROOT / "manifests"
Captured = pytest.CaptureFixture[str]
pytestmark = [
    pytest.mark.skipif(not KUBECONFIG, reason="VLM_TEST_KUBECONFIG names no cluster (manifests/README.md)"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]


def kubectl(*arguments: str) -> str:
    command = ["kubectl", "--kubeconfig", KUBECONFIG, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result.stdout


def definitions() -> list[dict[str, Any]]:
    """The custom resources that the manifests and the launcher stand on, by their real schemas."""
    found = []
    for path in sorted(SCHEMAS.glob("*.json")):
        crd = json.loads(path.read_text())
        found.append(
            definition(crd["group"], crd["version"], crd["kind"], crd["schema"], crd.get("scope", "Namespaced"))
        )
    return found


def definition(group: str, version: str, kind: str, schema: dict[str, Any], scope: str) -> dict[str, Any]:
    plural = f"{kind.lower()}{'es' if kind.endswith('s') else 's'}"
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [served],
        },
    }


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    """The cluster with our manifests in it."""
    namespaces = kubectl("get", "namespaces", "--output", "name").split()
    if f"namespace/{NAMESPACE}" in namespaces:
        pytest.fail(f"the cluster of VLM_TEST_KUBECONFIG has a namespace {NAMESPACE}, which these tests would delete")
    there = kubectl("get", "crds", "--output", "name")
    crds = tmp_path_factory.mktemp("crds") / "crds.yaml"
    missing = [one for one in definitions() if one["metadata"]["name"] not in there]
    if missing:
        crds.write_text(yaml.safe_dump_all(missing))
        kubectl("create", "--filename", str(crds))
        kubectl("wait", "--for", "condition=Established", "--timeout", "60s", "--filename", str(crds))
    runtime = MANIFESTS / "trainer" / "runtime.yaml"
    has_runtime = "vlm-torch" in kubectl("get", "clustertrainingruntimes", "--output", "name")
    try:
        kubectl("apply", "--kustomize", str(MANIFESTS / "base"))
        kubectl("apply", "--filename", str(runtime))
        if "namespace/kubeflow" not in namespaces:
            kubectl("create", "namespace", "kubeflow")  # where overlays/laptop goes
        # KFP makes it with a Profile.
        kubectl("--namespace", NAMESPACE, "create", "serviceaccount", "default-editor")
        yield config.new_client_from_config(KUBECONFIG)
    finally:
        made = {NAMESPACE, "kubeflow"} - {name.removeprefix("namespace/") for name in namespaces}
        if not has_runtime:
            kubectl("delete", "--filename", str(runtime), "--ignore-not-found")
        kubectl("delete", "namespace", *sorted(made), "--ignore-not-found", "--wait=false")
        if missing:
            kubectl("delete", "--filename", str(crds), "--ignore-not-found", "--wait=false")


def token(admin: ApiClient, account: str) -> str:
    request = {"spec": {"expirationSeconds": 3600, "audiences": []}}
    answer = client.CoreV1Api(admin).create_namespaced_service_account_token(account, NAMESPACE, request)
    return str(answer.status.token)


def client_of(admin: ApiClient, account: str) -> ApiClient:
    """A client with the rights of a service account, and no others."""
    settings = client.Configuration()
    for name in ("host", "ssl_ca_cert", "verify_ssl"):
        setattr(settings, name, getattr(admin.configuration, name))
    settings.api_key = {"authorization": f"Bearer {token(admin, account)}"}
    settings.retries = False
    return ApiClient(settings)


@pytest.fixture(scope="module")
def in_the_operators_place(admin: ApiClient) -> None:
    """Nobody else makes pods for PyTorchJobs, or says how they stand."""
    listed = json.loads(kubectl("get", "deployments", "--all-namespaces", "--output", "json"))["items"]
    if "pytorchjob" in surroundings(listed).operators:
        pytest.skip("the training operator runs here, and this test plays it: test_cluster_run.py tries the real one")


@pytest.fixture
def launcher_client(admin: ApiClient) -> ApiClient:
    """The launching pod's client."""
    return client_of(admin, "default-editor")


def make_job(folder: Path, key: str, run_id: str = "run-1", backend: str = "pytorchjob", **launch: Any) -> TrainingJob:
    return TrainingJob(
        name="pretrain",
        module="components.pretrain.worker",
        arguments=["spec.json"],
        log_folder=folder / "launch" / "logs",
        config=LaunchConfig(
            **{"backend": backend, "nodes": 2, "processes_per_node": 2, "tensor_parallel": 2, **launch}
        ),
        key=key,
        run_id=run_id,
        workspace=folder,
        cluster=ClusterConfig.model_validate(
            {"pvc": "vlm-workspace", "job": {"namespace": NAMESPACE, "poll_s": 0.2, "api_patience_s": 10, "tries": 1}}
        ),
    )


def jobs(admin: ApiClient, key: str, kind: JobKind = JOB_KINDS["pytorchjob"]) -> list[dict[str, Any]]:
    api = client.CustomObjectsApi(admin)
    items = api.list_namespaced_custom_object(kind.group, kind.version, NAMESPACE, kind.plural)["items"]
    return [job for job in items if key in job["metadata"]["name"]]


def the_job(admin: ApiClient, key: str) -> dict[str, Any]:
    job: dict[str, Any] = wait_for(lambda: jobs(admin, key))[0]
    return job


def operator_says(admin: ApiClient, job: dict[str, Any], type_: str) -> None:
    """Write a condition as the operator does: through the status subresource."""
    condition = {"type": type_, "status": "True", "reason": f"PyTorchJob{type_}", "message": "told by a test"}
    client.CustomObjectsApi(admin).patch_namespaced_custom_object_status(
        "kubeflow.org",
        "v1",
        NAMESPACE,
        "pytorchjobs",
        job["metadata"]["name"],
        {"status": {"conditions": [condition], "replicaStatuses": {}}},
    )


def operator_makes_pods(admin: ApiClient, job: dict[str, Any]) -> list[str]:
    """Make the pods of a job as the operator does, with its labels and owned by the job; no node has to take them."""
    names = []
    for role, replica in job["spec"]["pytorchReplicaSpecs"].items():
        for index in range(replica["replicas"]):
            template = replica["template"]
            name = f"{job['metadata']['name']}-{role.lower()}-{index}"
            labels = {
                "training.kubeflow.org/job-name": job["metadata"]["name"],
                "training.kubeflow.org/replica-type": role.lower(),
                "training.kubeflow.org/replica-index": str(index),
            }
            metadata = template.get("metadata", {})
            owner = {
                "apiVersion": job["apiVersion"],
                "kind": job["kind"],
                "name": job["metadata"]["name"],
                "uid": job["metadata"]["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
            body = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "labels": {**metadata.get("labels", {}), **labels},
                    "annotations": metadata.get("annotations", {}),
                    "ownerReferences": [owner],
                },
                "spec": {**template["spec"], "restartPolicy": "Never"},
            }
            client.CoreV1Api(admin).create_namespaced_pod(NAMESPACE, body)
            names.append(name)
    return names


@pytest.mark.parametrize("overlay", ["base", "overlays/laptop", "overlays/gpu-pool", "overlays/kueue"])
def test_the_api_server_takes_the_manifests(admin: ApiClient, overlay: str) -> None:
    answer = kubectl("apply", "--dry-run=server", "--kustomize", str(MANIFESTS / overlay))
    assert "statefulset.apps/vlm-postgres" in answer


def test_launching_account_can_do_what_it_needs_and_no_more(admin: ApiClient) -> None:
    account = f"--as=system:serviceaccount:{NAMESPACE}:default-editor"

    def may(verb: str, *resource: str) -> bool:
        command = ["kubectl", "--kubeconfig", KUBECONFIG, "--namespace", NAMESPACE, "auth", "can-i", verb, *resource]
        return subprocess.run([*command, account], capture_output=True, check=False).returncode == 0

    for resource in ("pytorchjobs.kubeflow.org", "trainjobs.trainer.kubeflow.org"):
        assert all(may(verb, resource) for verb in ("get", "create", "patch", "delete"))
    assert may("list", "pods")
    assert may("get", "pods", "--subresource=log")
    for verb, resource in (
        ("get", "secrets"),
        ("create", "pods"),
        ("delete", "pods"),
        ("create", "pods/exec"),
        ("list", "configmaps"),
        ("update", "pytorchjobs.kubeflow.org/status"),
    ):
        assert not may(verb, resource), f"{verb} {resource}"


@pytest.mark.usefixtures("in_the_operators_place")
def test_job_is_submitted_found_again_taken_over_and_succeeds(
    admin: ApiClient, launcher_client: ApiClient, tmp_path: Path, capsys: Captured
) -> None:
    key = "aaaa000000000001"
    first = Launcher(make_job(tmp_path, key), launcher_client, patience_s=60)
    job = the_job(admin, key)
    operator_makes_pods(admin, job)
    again = Launcher(make_job(tmp_path, key), launcher_client, patience_s=60)
    other = Launcher(make_job(tmp_path, key, run_id="run-2"), launcher_client, patience_s=60)
    wait_for(lambda: the_job(admin, key)["metadata"]["annotations"][OWNER_ANNOTATION] == "run-2")
    time.sleep(1)
    operator_says(admin, job, "Succeeded")
    assert (first.result(), again.result(), other.result()) == (None, None, None)
    assert the_job(admin, key)["metadata"]["uid"] == job["metadata"]["uid"]
    told = capsys.readouterr().out
    assert "created: 2 x 2 processes" in told
    assert "taken over from run run-1" in told


@pytest.mark.usefixtures("in_the_operators_place")
def test_failed_job_is_replaced_by_the_next_run(admin: ApiClient, launcher_client: ApiClient, tmp_path: Path) -> None:
    key = "aaaa000000000002"
    first = Launcher(make_job(tmp_path, key), launcher_client, patience_s=60)
    job = the_job(admin, key)
    operator_says(admin, job, "Failed")
    assert isinstance(first.result(), TrainingFailed | ClusterFailure)
    second = Launcher(make_job(tmp_path, key, run_id="run-2"), launcher_client, patience_s=60)
    wait_for(lambda: the_job(admin, key)["metadata"]["uid"] != job["metadata"]["uid"])
    operator_says(admin, the_job(admin, key), "Succeeded")
    assert second.result() is None


@pytest.mark.usefixtures("in_the_operators_place")
def test_other_settings_under_the_same_name_are_refused(
    admin: ApiClient, launcher_client: ApiClient, tmp_path: Path
) -> None:
    key = "aaaa000000000003"
    first = Launcher(make_job(tmp_path, key), launcher_client, patience_s=60)
    job = the_job(admin, key)
    error = Launcher(make_job(tmp_path, key, nodes=1), launcher_client, patience_s=60).result()
    assert isinstance(error, JobRejected)
    assert "runs already, with other settings" in str(error)
    operator_says(admin, job, "Succeeded")
    assert first.result() is None


@pytest.mark.usefixtures("in_the_operators_place")
def test_deleted_job_is_told_and_its_pods_go(admin: ApiClient, launcher_client: ApiClient, tmp_path: Path) -> None:
    key = "aaaa000000000004"
    first = Launcher(make_job(tmp_path, key), launcher_client, patience_s=60)
    job = the_job(admin, key)
    names = operator_makes_pods(admin, job)
    time.sleep(1)
    kubectl("--namespace", NAMESPACE, "delete", "pytorchjobs", job["metadata"]["name"])
    error = first.result()
    assert isinstance(error, ClusterFailure)
    assert "was deleted by someone else" in str(error)

    def gone() -> bool:
        pods = client.CoreV1Api(admin).list_namespaced_pod(NAMESPACE).items
        return not {pod.metadata.name for pod in pods} & set(names)

    wait_for(gone)


def test_trainjob_is_taken_by_the_real_schema_too(admin: ApiClient, launcher_client: ApiClient, tmp_path: Path) -> None:
    key, kind = "aaaa000000000007", JOB_KINDS["trainjob"]
    launcher = Launcher(make_job(tmp_path, key, backend="trainjob"), launcher_client, patience_s=60)
    job = wait_for(lambda: jobs(admin, key, kind))[0]
    kubectl("--namespace", NAMESPACE, "delete", kind.plural, job["metadata"]["name"])
    assert isinstance(launcher.result(), ClusterFailure)


def test_launcher_that_is_told_to_stop_deletes_its_job(admin: ApiClient, tmp_path: Path) -> None:
    key = "aaaa000000000008"
    settings = yaml.safe_load(Path(KUBECONFIG).read_text())
    settings["users"] = [
        {"name": one["name"], "user": {"token": token(admin, "default-editor")}} for one in settings["users"]
    ]
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(settings))
    code = f"""
        import sys
        from pathlib import Path
        from components.launch.cluster import run_on_cluster
        from tests.e2e.test_control_plane import make_job
        try:
            run_on_cluster(make_job(Path({str(tmp_path)!r}), {key!r}))
        except KeyboardInterrupt:
            sys.exit(130)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=MANIFESTS.parent,
        env={**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    the_job(admin, key)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "deleted: the run was told to stop" in output
    wait_for(lambda: not jobs(admin, key))


@pytest.mark.usefixtures("in_the_operators_place")
def test_reason_of_a_waiting_pod_is_shown(
    admin: ApiClient, launcher_client: ApiClient, tmp_path: Path, capsys: Captured
) -> None:
    key = "aaaa000000000005"
    launcher = Launcher(make_job(tmp_path, key), launcher_client, patience_s=60)
    job = the_job(admin, key)
    said = ""
    for name in operator_makes_pods(admin, job):
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        }
        client.CoreV1Api(admin).patch_namespaced_pod_status(name, NAMESPACE, {"status": {"conditions": [condition]}})

    def shown() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "3 Insufficient nvidia.com/gpu" in said

    wait_for(shown)
    operator_says(admin, job, "Succeeded")
    assert launcher.result() is None


def test_account_without_the_role_is_told_what_it_lacks(admin: ApiClient, tmp_path: Path) -> None:
    error = Launcher(make_job(tmp_path, "aaaa000000000006"), client_of(admin, "vlm-training"), patience_s=60).result()
    assert isinstance(error, JobRejected)
    assert "forbidden" in str(error)
    assert "manifests/base/rbac.yaml" in str(error)


def test_unknown_field_in_a_job_is_refused_by_the_real_schema(admin: ApiClient) -> None:
    body = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "wrong"},
        "spec": {"pytorchReplicaSpecs": {"Master": {"replicas": "two"}}},
    }
    with pytest.raises(ApiException) as error:
        client.CustomObjectsApi(admin).create_namespaced_custom_object(
            "kubeflow.org", "v1", NAMESPACE, "pytorchjobs", body
        )
    assert error.value.status == 422
