"""`vlm doctor --cluster`: one row for everything, with what to do, and never "good" for what could not be seen."""

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from kubernetes.config import kube_config
from rich.console import Console

from components.launch.config import Toleration
from pipelines.cli import main
from pipelines.doctor import nodes, pods
from pipelines.doctor.cluster import CHECKS, examine
from pipelines.doctor.finding import Mark
from pipelines.doctor.kfp import retry_policy
from pipelines.doctor.question import Question
from pipelines.doctor.reader import Reader
from pipelines.doctor.rights import launcher_rights
from pipelines.preset_files import load_preset
from tests.support.cluster_objects import (
    ARGO,
    CORE,
    KUEUE,
    KUEUE_CONFIG,
    LEASES,
    NAMESPACED,
    ClusterObjects,
    active,
    argo,
    claim,
    kueue_config,
    lease,
    node,
    resources,
)
from tests.support.kfp_server import KfpServer
from tests.support.kubeconfig import write_kubeconfig
from tests.support.paths import ROOT
from tests.support.pod_security import violations

PVC = f"{NAMESPACED}/persistentvolumeclaims/vlm-workspace"
TRAINJOBS = ("pretrain.launch.backend=trainjob", "sft.launch.backend=trainjob", "cluster.job.ttl_s=null")
QUEUED = ("cluster.job.queue=vlm",)


@pytest.fixture
def cluster() -> Iterator[ClusterObjects]:
    cluster = ClusterObjects()
    yield cluster
    cluster.close()


def table(cluster: ClusterObjects, *overrides: str, with_pods: bool = False) -> tuple[int, dict[str, list[str]]]:
    """The exit status, and the rows by their subject."""
    shown = io.StringIO()
    question = Question(load_preset("mistral-clip-7b", [*QUEUED, *overrides]), "vlm-pipelines")
    console = Console(file=shown, width=1000)
    status = examine(Reader(cluster.client()), question, console, with_pods=with_pods)
    rows: dict[str, list[str]] = {}
    for line in shown.getvalue().splitlines():
        if line[:2] in {f"{mark.value} " for mark in Mark}:
            rows.setdefault(line[2:22].strip(), []).append(f"{line[0]} {line[22:].strip()}")
        else:
            rows.setdefault("", []).append(line)
    return status, rows


def test_a_cluster_with_everything(cluster: ClusterObjects) -> None:
    status, rows = table(cluster)
    assert status == 0
    assert rows["Kubernetes"] == ["✓ v1.34.1"]
    assert rows["nodes"] == ["✓ 3 x v1.34.1 amd64"]
    assert rows["GPUs"] == ["✓ 2 nodes with 8 NVIDIA-H100-80GB-HBM3; 2 nodes fit"]
    assert rows["GPU driver"] == ["✓ R580 on 2 nodes"]
    assert rows["PyTorchJob"] == ["✓ kubeflow.org/v1, operator v1.9.2"]
    assert rows["TrainJob"] == ["· not here, and not asked for"]
    assert rows["Kueue"] == ["✓ kueue.x-k8s.io/v1beta2, operator v0.17.0"]
    assert rows["queue"] == [
        "✓ LocalQueue vlm is active",
        "✓ ClusterQueue vlm is active",
        "✓ Kueue takes kubeflow.org/pytorchjob",
    ]
    assert rows["KFP"] == ["✓ 2.17.0; pass --endpoint to see whether it answers"]
    assert "retryPolicy OnError" in rows["KFP retries"][0]
    assert rows["service account"] == ["✓ default-editor may launch and follow training jobs"]
    assert rows["your rights"] == ["✓ you may see why pods wait, and their logs", "✓ you may end training jobs"]
    assert rows["workspace"] == [
        "✓ vlm-workspace, 1Ti, storage class shared (nfs.csi.k8s.io, Immediate)",
        "✓ access mode ReadWriteMany",
    ]
    assert [row[0] for row in rows["clock"]] == ["✓", "✓"]
    assert rows["in a pod"][0].startswith("? ")
    assert rows[""] == [
        "Not known, because it could not be looked at: in a pod.",
        "Nothing that could be seen is missing.",
    ]


def test_what_may_not_be_seen_is_never_good(cluster: ClusterObjects) -> None:
    cluster.forbidden = {"/api/", "/apis/"}
    status, rows = table(cluster)
    looked = {subject for subject, _ in CHECKS} - {"training runtime"}
    for subject in looked:
        assert rows[subject][-1].startswith("? "), rows[subject]
        assert "forbidden" in rows[subject][-1]
    # The version and the time are in every answer.
    assert {subject for subject, found in rows.items() for row in found if row[0] == "✓"} == {"Kubernetes", "clock"}
    assert status == 0
    assert rows[""][0].startswith("Not known, because it could not be looked at: ")


def test_versions_that_may_not_be_seen_are_said(cluster: ClusterObjects) -> None:
    cluster.forbidden = {"/apis/apps/"}
    _, rows = table(cluster)
    assert rows["PyTorchJob"] == ["✓ kubeflow.org/v1, operator of a version that you may not see"]
    assert rows["KFP"][0].startswith("? Kubeflow Pipelines does not say its version")


def test_missing_kinds_are_bad_where_they_are_asked_for(cluster: ClusterObjects) -> None:
    del cluster.objects["/apis/kubeflow.org/v1"]
    cluster.objects[KUEUE.replace("v1beta2", "v1beta1")] = cluster.objects.pop(KUEUE)
    status, rows = table(cluster)
    assert status == 1
    assert rows["PyTorchJob"][0].startswith("✗ no kubeflow.org/v1 here: install Kubeflow's training operator")
    assert rows["Kueue"][0].startswith("✗ no kueue.x-k8s.io/v1beta2 here: install Kueue 0.15")
    assert "This run can't work here yet: PyTorchJob, Kueue." in rows[""]


def test_trainjobs_need_jobset(cluster: ClusterObjects) -> None:
    cluster.objects["/apis/trainer.kubeflow.org/v1alpha1"] = resources("trainjobs")
    _, rows = table(cluster, *TRAINJOBS)
    assert rows["TrainJob"][0].startswith("✓")
    assert rows["JobSet"][0].startswith("✗ no jobset.x-k8s.io/v1alpha2 here: install JobSet")
    assert rows["PyTorchJob"][0].startswith("· ")


def test_a_runtime_that_restarts_is_bad(cluster: ClusterObjects) -> None:
    path = "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/vlm-torch"
    assert "kubectl apply -f manifests/trainer/runtime.yaml" in table(cluster, *TRAINJOBS)[1]["training runtime"][0]
    ours = next(yaml.safe_load_all((ROOT / "manifests" / "trainer" / "runtime.yaml").read_text()))
    cluster.objects[path] = ours
    assert table(cluster, *TRAINJOBS)[1]["training runtime"] == ["✓ vlm-torch"]
    ours["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["backoffLimit"] = 6
    status, rows = table(cluster, *TRAINJOBS)
    assert status == 1
    assert "it replaces pods that fail (backoffLimit 6; must be 0)" in rows["training runtime"][0]
    asked = [one["spec"]["resourceAttributes"] for one in cluster.reviews]
    assert [one for one in asked if one["resource"] == "clustertrainingruntimes" and "namespace" not in one]


@pytest.mark.parametrize(
    ("spec", "overrides", "fits"),
    [
        ({"gpus": 8}, (), True),
        ({"gpus": 4}, (), False),
        ({"unschedulable": True}, (), False),
        ({"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]}, (), True),
        ({"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]}, ("cluster.tolerations=[]",), False),
        ({"taints": [{"key": "other", "effect": "NoExecute"}]}, (), False),
        ({"taints": [{"key": "other", "effect": "PreferNoSchedule"}]}, (), True),
        ({}, ("cluster.node_selector={pool: gpus}",), False),
        ({}, ("pretrain.launch.nodes=2",), False),
    ],
)
def test_nodes_that_fit_are_counted(
    cluster: ClusterObjects, spec: dict[str, Any], overrides: tuple[str, ...], fits: bool
) -> None:
    cluster.objects[f"{CORE}/nodes"] = {"items": [node("gpu-0", **spec)]}
    status, rows = table(cluster, *overrides)
    assert rows["GPUs"][0].startswith("✓" if fits else "✗"), rows["GPUs"]
    assert status == (0 if fits else 1)


def test_old_and_silent_drivers(cluster: ClusterObjects) -> None:
    cluster.objects[f"{CORE}/nodes"] = {
        "items": [node("a", driver="535"), node("b", driver="580"), node("c", driver="")]
    }
    _, rows = table(cluster)
    assert rows["GPU driver"][0].startswith("? 1 nodes don't say theirs")
    assert rows["GPU driver"][1].startswith("✗ R535 on 1 nodes, R580 on 1 nodes: the GPU image has CUDA 13")


def test_a_node_whose_clock_is_off_is_named(cluster: ClusterObjects) -> None:
    cluster.objects[LEASES] = {"items": [lease("gpu-0"), lease("gpu-1", behind_s=300), lease("cpu-0", behind_s=-60)]}
    status, rows = table(cluster)
    assert status == 1
    assert re.match(r"✗ not with the API server's: gpu-1 \(-\d+ s\), cpu-0 \(\+\d+ s\): synchronise", rows["clock"][1])


def test_the_workspace_must_be_shared(cluster: ClusterObjects) -> None:
    cluster.put(PVC, claim("ReadWriteOnce"))
    status, rows = table(cluster)
    assert status == 1
    assert rows["workspace"][1].startswith("✗ access mode ReadWriteOnce, 3 nodes: take a ReadWriteMany class")
    cluster.objects[f"{CORE}/nodes"] = {"items": [node("only")]}
    assert table(cluster)[1]["workspace"][1].startswith("✓ access mode ReadWriteOnce, enough for the one node")
    cluster.forbidden = {f"{CORE}/nodes"}
    assert table(cluster)[1]["workspace"][1].startswith("? access mode ReadWriteOnce, and how many nodes there are")
    cluster.put(PVC, claim(phase="Pending"))
    assert "Pending: kubectl describe pvc vlm-workspace" in table(cluster)[1]["workspace"][0]
    del cluster.objects[PVC]
    assert table(cluster)[1]["workspace"] == [
        "✗ no claim vlm-workspace in the namespace vlm-pipelines: make it (manifests/base/workspace.yaml), or set cluster.pvc"
    ]


def test_a_queue_that_can_not_admit(cluster: ClusterObjects) -> None:
    local = f"{KUEUE}/namespaces/vlm-pipelines/localqueues/vlm"
    cluster.objects[local]["status"] = active("Can't submit new workloads to clusterQueue", "False")
    cluster.objects[f"{KUEUE}/clusterqueues/vlm"]["spec"]["resourceGroups"][0]["coveredResources"] = ["cpu", "memory"]
    _, rows = table(cluster, "cluster.job.resources={rdma/hca: '1'}", "cluster.job.priority_class=urgent")
    assert rows["queue"][0].startswith("✗ LocalQueue vlm is not active: Can't submit new workloads")
    assert "does not cover nvidia.com/gpu, rdma/hca" in rows["queue"][2]
    assert "no WorkloadPriorityClass urgent" in rows["queue"][3]
    del cluster.objects[local]
    assert table(cluster)[1]["queue"][0].startswith("✗ no LocalQueue vlm in the namespace vlm-pipelines")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("integrations: {frameworks: [batch/job]}", "✗ Kueue does not take kubeflow.org/pytorchjob"),
        ("{}", "? Kueue's configuration names no integrations.frameworks"),
        (
            "waitForPodsReady: {timeout: 1h0m1s}",
            "✗ Kueue waits 3601 s for a job's pods, nodes that are there wait 3600 s",
        ),
    ],
)
def test_what_kueue_is_told(cluster: ClusterObjects, text: str, said: str) -> None:
    cluster.put(KUEUE_CONFIG, kueue_config(text))
    assert table(cluster)[1]["queue"][-1].startswith(said)
    del cluster.objects[KUEUE_CONFIG]
    assert table(cluster)[1]["queue"][-1].startswith("? Kueue's configuration is not in the namespace kueue-system")


def test_rights_that_are_missing_are_named(cluster: ClusterObjects) -> None:
    cluster.denied = {("create", "pytorchjobs"), ("get", "pods")}
    status, rows = table(cluster)
    assert status == 1
    assert rows["service account"] == [
        "✗ default-editor may not create pytorchjobs.kubeflow.org, get pods/log: "
        "bind the Role vlm-launcher to it (manifests/base/rbac.yaml; for TrainJobs also manifests/trainer/runtime.yaml)"
    ]
    assert rows["your rights"][0].startswith("· you may not get pods/log: without these vlm can't see why pods wait")
    users = {one["spec"].get("user") for one in cluster.reviews}
    assert users == {None, "system:serviceaccount:vlm-pipelines:default-editor"}
    del cluster.objects[f"{NAMESPACED}/serviceaccounts/default-editor"]
    assert "neither default-editor nor pipeline-runner" in table(cluster)[1]["service account"][0]


def test_the_launchers_rights_are_those_of_the_role() -> None:
    role = next(yaml.safe_load_all((ROOT / "manifests" / "base" / "rbac.yaml").read_text()))
    allowed = {
        (verb, group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = {
        (one.verb, one.group, one.resource)
        for backend in ("pytorchjob", "trainjob")
        for one in launcher_rights(backend, queued=True)
        if not one.cluster_wide
    }
    assert asked == allowed


def test_what_a_namespace_enforces(cluster: ClusterObjects) -> None:
    level = cluster.objects[NAMESPACED]["metadata"]["labels"]
    status, rows = table(cluster, "cluster.job.lock_memory=true")
    assert status == 1
    assert "refuses pods that lock memory" in rows["namespace"][0]
    level["pod-security.kubernetes.io/enforce"] = "restricted"
    assert table(cluster)[1]["namespace"] == ["✓ vlm-pipelines enforces pod security restricted"]
    two = "pretrain.launch.nodes=2"
    assert table(cluster, two)[1]["namespace"][1].startswith("✗ the operator's init container is refused")
    operator = cluster.objects["/apis/apps/v1/deployments"]["items"][0]["spec"]["template"]["spec"]["containers"][0]
    operator["args"] = ["--pytorch-init-container-template-file=/etc/vlm/initContainer.yaml"]
    assert table(cluster, two)[1]["namespace"][1].startswith("· the operator has a template of its own")
    cluster.forbidden = {"/apis/apps/"}
    assert table(cluster, two)[1]["namespace"][1].startswith("? whether the operator's init container passes")
    del cluster.objects[NAMESPACED]
    assert table(cluster)[1]["namespace"][0].startswith("✗ no vlm-pipelines")


def test_quotas_and_policies(cluster: ClusterObjects) -> None:
    quota: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "team"},
        "spec": {"hard": {"requests.nvidia.com/gpu": "4", "limits.memory": "1Ti"}},
        "status": {"used": {"requests.nvidia.com/gpu": "1"}},
    }
    cluster.objects[f"{NAMESPACED}/resourcequotas"] = {"items": [quota]}
    _, rows = table(cluster)
    assert rows["quota"][0].startswith(
        "✗ team counts limits.memory, which not every pod says: give the namespace a LimitRange"
    )
    assert rows["quota"][1].startswith(
        "✗ team: limits.memory ? of 1Ti, requests.nvidia.com/gpu 1 of 4; 8 GPUs are asked for"
    )
    limits = {"spec": {"limits": [{"type": "Container", "default": {"memory": "8Gi"}}]}}
    cluster.objects[f"{NAMESPACED}/limitranges"] = {"items": [limits]}
    quota["spec"]["hard"]["requests.nvidia.com/gpu"] = "16"
    assert [row[0] for row in table(cluster)[1]["quota"]] == ["✓"]
    policies = "/apis/networking.k8s.io/v1/namespaces/vlm-pipelines/networkpolicies"
    closed = {"metadata": {"name": "deny-all"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}
    cluster.objects[policies] = {"items": [closed]}
    assert table(cluster)[1]["network policies"][0].startswith("? deny-all says where all pods")


def test_secrets_are_looked_for_by_key(cluster: ClusterObjects) -> None:
    path = f"{NAMESPACED}/secrets/vlm-hub"
    needed = ("cluster.secrets=[{variable: HF_TOKEN, secret: vlm-hub, key: token}]",)
    assert table(cluster, *needed)[1]["secret"][0].startswith("✗ vlm-hub, key token: not there")
    cluster.put(
        path, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vlm-hub"}, "data": {"other": "eA=="}}
    )
    assert table(cluster, *needed)[1]["secret"][0].startswith("✗")
    cluster.objects[path]["data"]["token"] = "c2VjcmV0"
    assert table(cluster, *needed)[1]["secret"] == ["✓ vlm-hub, key token"]
    cluster.forbidden = {path}
    assert table(cluster, *needed)[1]["secret"][0].startswith("? vlm-hub, key token: can't be read")


@pytest.mark.parametrize(
    ("defaults", "policy"),
    [
        ("", "OnFailure"),
        ("spec: {ttlStrategy: {secondsAfterCompletion: 3600}}", "OnFailure"),
        ("spec: {templateDefaults: {retryStrategy: {limit: '2', retryPolicy: OnError}}}", "OnError"),
        ("spec: {templateDefaults: {retryStrategy: {retryPolicy: Always}}}", "Always"),
    ],
)
def test_argos_retry_policy(cluster: ClusterObjects, defaults: str, policy: str) -> None:
    assert retry_policy({"workflowDefaults": defaults}) == policy
    cluster.put(ARGO, argo(defaults))
    assert f"(retryPolicy {policy})" in table(cluster)[1]["KFP retries"][0]


def test_pods_tell_the_rest_and_are_removed(cluster: ClusterObjects) -> None:
    status, rows = table(cluster, with_pods=True)
    assert status == 0
    assert len(cluster.made) == 2
    assert [row[0] for row in rows["image"]] == ["✓", "✓"]
    assert rows["workspace"][2:] == ["✓ /workspace can be written by user 10001"] * 2
    assert rows["MLflow"] == ["✓ http://mlflow:5000 answers from a pod"] * 2
    assert len(cluster.deleted) == 2
    for body in cluster.made:
        assert violations(body["spec"]) == []


def test_pods_that_fail_say_why(cluster: ClusterObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "_POLL_S", 0.01)
    cluster.log = '{"workspace": "[Errno 13] Permission denied", "mlflow": "timed out"}\n'
    _, rows = table(cluster, with_pods=True)
    assert rows["workspace"][2].startswith("✗ /workspace can't be written: [Errno 13] Permission denied")
    assert rows["MLflow"][0].startswith("✗ http://mlflow:5000 does not answer from a pod: timed out")
    waiting = {"reason": "ErrImagePull", "message": "manifest unknown"}
    state = {"name": "probe", "state": {"waiting": waiting}}
    cluster.pods = {"phase": "Pending", "containerStatuses": [state]}
    _, rows = table(cluster, with_pods=True)
    assert "ErrImagePull: manifest unknown" in rows["image"][0]
    cluster.log = "exec: python3: not found"
    cluster.pods = {"phase": "Failed"}
    assert "not found" in table(cluster, with_pods=True)[1]["in a pod"][0]
    assert len(cluster.deleted) == len(cluster.made)
    cluster.forbidden = {f"{NAMESPACED}/pods"}
    assert table(cluster, with_pods=True)[1]["in a pod"][0].startswith("? no pod can be made")


def test_tolerations_are_kubernetes_own() -> None:
    taint = {"key": "a", "value": "b", "effect": "NoSchedule"}
    assert nodes._tolerates(Toleration(), taint)
    assert nodes._tolerates(Toleration(key="a", operator="Equal", value="b"), taint)
    assert not nodes._tolerates(Toleration(key="a", operator="Equal", value="c"), taint)
    assert not nodes._tolerates(Toleration(key="a", effect="NoExecute"), taint)


def test_the_command(
    cluster: ClusterObjects, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_kubeconfig(tmp_path / "kubeconfig", cluster.url, "vlm-pipelines")
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    kfp = KfpServer()
    kfp.version = "2.16.1"
    try:
        asked = ["doctor", "--cluster", "--preset", "mistral-clip-7b", "--endpoint", kfp.url]
        assert main(asked) == 1
        printed = capsys.readouterr().out
        assert (
            "✗ KFP                  Kubeflow Pipelines is 2.16.1, older than 2.17: an exit handler around loops"
            in printed
        )
        kfp.version = "2.17.0"
        assert main(asked) == 0
        assert f"✓ KFP                  2.17.0 at {kfp.url}" in capsys.readouterr().out
    finally:
        kfp.close()
    cluster.close()
    assert main(["doctor", "--cluster"]) == 1
    assert "The cluster can't be examined: the Kubernetes API does not answer" in capsys.readouterr().err
