"""Rendered jobs: valid by the real schemas, and with what a multi-node training needs."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import ConfigurationError
from components.launch import pytorchjob, trainjob
from components.launch.config import ClusterConfig, JobConfig, LaunchConfig
from components.launch.job import TrainingJob
from components.launch.pod import HASH_ANNOTATION, RANK_PREFIX, label_value
from tests.support.kubernetes_schemas import check_pod, custom_resource_errors
from tests.support.paths import SUPPORT

CLUSTER: dict[str, Any] = {
    "gpu_image": "registry.example/vlm/gpu:1",
    "pvc": "vlm-workspace",
    "gpus": 8,
    "gpu_cpu": "64",
    "gpu_memory": "512Gi",
    "shared_memory": "64Gi",
    "image_pull_secrets": ["registry"],
    "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "secrets": [{"variable": "AWS_SECRET_ACCESS_KEY", "secret": "s3", "key": "secret-key"}],
    "affinity": {
        "podAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100.0,  # as KFP carries it
                    "podAffinityTerm": {
                        "labelSelector": {"matchLabels": {"vlm-pipelines/stage": "pretrain"}},
                        "topologyKey": "topology.kubernetes.io/zone",
                    },
                }
            ]
        }
    },
    "job": {
        "service_account": "vlm-training",
        "environment": {"NCCL_SOCKET_IFNAME": "eth0", "NCCL_IB_HCA": "mlx5"},
        "resources": {"rdma/hca": "1"},
        "lock_memory": True,
    },
}


def make_job(launch: dict[str, Any] | None = None, job: dict[str, Any] | None = None, **cluster: Any) -> TrainingJob:
    tree = {**CLUSTER, **cluster}
    tree["job"] = {**tree["job"], **(job or {})}
    return TrainingJob(
        name="pretrain",
        module="components.training.worker",
        arguments=["/workspace/pretrain/0123456789abcdef/launch/spec.json"],
        log_folder=Path("/workspace/pretrain/0123456789abcdef/launch/logs"),
        config=LaunchConfig(
            **{"backend": "pytorchjob", "nodes": 8, "processes_per_node": 8, "tensor_parallel": 4, **(launch or {})}
        ),
        key="0123456789abcdef",
        run_id="run/1",
        workspace=Path("/workspace"),
        cluster=ClusterConfig.model_validate(tree),
    )


def pods_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [replica["template"] for replica in body["spec"]["pytorchReplicaSpecs"].values()]


def test_pytorchjob_for_8_nodes_of_8_gpus() -> None:
    body = pytorchjob.render(make_job())
    assert custom_resource_errors(body) == []
    replicas = body["spec"]["pytorchReplicaSpecs"]
    assert {name: replica["replicas"] for name, replica in replicas.items()} == {"Master": 1, "Worker": 7}
    assert body["spec"]["runPolicy"] == {"backoffLimit": 0, "cleanPodPolicy": "Running"}
    for template in pods_of(body):
        check_pod(template["metadata"], template["spec"])
        (container,) = template["spec"]["containers"]
        assert container["name"] == "pytorch"
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "8", "rdma/hca": "1"}
        assert container["resources"]["requests"]["memory"] == "512Gi"
        command = container["command"]
        assert {"--nnodes=8", "--nproc-per-node=8", "--node-rank=$(RANK)", "--master-addr=$(MASTER_ADDR)"} <= set(
            command
        )
        assert command[-2:] == ["components.training.worker", "/workspace/pretrain/0123456789abcdef/launch/spec.json"]
        variables = {entry["name"]: entry for entry in container["env"]}
        assert variables["NCCL_IB_HCA"]["value"] == "mlx5"
        assert variables["VLM_DEVICE"]["value"] == "cuda", "GPUs that can't be used end the job"
        assert variables["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "s3"
        assert "value" not in variables["AWS_SECRET_ACCESS_KEY"]
        assert variables["TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"]["value"] == RANK_PREFIX
        # The pod's end leaves the ranks as much time as the pod has.
        grace = template["spec"]["terminationGracePeriodSeconds"]
        assert variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]["value"] == str(grace)
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert volumes[mounts["/workspace"]]["persistentVolumeClaim"] == {"claimName": "vlm-workspace"}
        assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Gi"}
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert template["spec"]["affinity"]["podAffinity"]
        assert template["spec"]["tolerations"] == [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]


def test_one_node_has_no_workers() -> None:
    assert set(pytorchjob.render(make_job({"nodes": 1}))["spec"]["pytorchReplicaSpecs"]) == {"Master"}


def test_queue_suspends_the_job_and_leaves_scheduling_to_kueue() -> None:
    body = pytorchjob.render(make_job(job={"queue": "gpus", "priority_class": "high"}))
    assert custom_resource_errors(body) == []
    assert body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert body["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
    assert body["spec"]["runPolicy"]["suspend"] is True
    assert all("priorityClassName" not in template["spec"] for template in pods_of(body))


def test_limits_are_set_where_the_user_sets_them() -> None:
    job = {"deadline_s": 7200, "ttl_s": 60, "gang_scheduling": True, "priority_class": "high", "backoff_limit": 1}
    body = pytorchjob.render(make_job(job=job))
    assert custom_resource_errors(body) == []
    assert body["spec"]["runPolicy"] == {
        "backoffLimit": 1,
        "cleanPodPolicy": "Running",
        "activeDeadlineSeconds": 7200,
        "ttlSecondsAfterFinished": 60,
        "schedulingPolicy": {"minAvailable": 8, "priorityClass": "high"},
    }


def test_trainjob_for_8_nodes_of_8_gpus() -> None:
    body = trainjob.render(make_job({"backend": "trainjob"}, {"queue": "gpus", "deadline_s": 60}))
    assert custom_resource_errors(body) == []
    spec = body["spec"]
    assert spec["suspend"] is True
    assert spec["activeDeadlineSeconds"] == 60
    assert (spec["trainer"]["numNodes"], spec["trainer"]["numProcPerNode"]) == (8, 8)
    assert spec["trainer"]["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "8"
    assert "--node-rank=$(PET_NODE_RANK)" in spec["trainer"]["command"]
    (patch,) = spec["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]
    check_pod(pod["metadata"], pod["spec"])
    assert pod["spec"]["nodeSelector"] == CLUSTER["node_selector"]
    assert pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] == "/workspace"


@pytest.mark.parametrize(
    "job", [{"ttl_s": 60}, {"backoff_limit": 2}, {"gang_scheduling": True}, {"priority_class": "p"}]
)
def test_trainjob_refuses_what_it_cant_say(job: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"has no cluster.job.{next(iter(job))}"):
        trainjob.render(make_job({"backend": "trainjob"}, job))


@pytest.mark.parametrize("kind", [pytorchjob.KIND, trainjob.KIND])
def test_unknown_fields_are_found(kind: Any) -> None:
    body = kind.render(make_job())
    body["spec"]["nonsense"] = 1
    assert any("nonsense" in error for error in custom_resource_errors(body))


def test_same_work_has_the_same_name_and_hash_whoever_asks() -> None:
    first = pytorchjob.render(make_job())
    second = pytorchjob.render(dataclasses.replace(make_job(), run_id="run-2"))
    other = pytorchjob.render(make_job({"nodes": 4}))
    hashes = [body["metadata"]["annotations"][HASH_ANNOTATION] for body in (first, second, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert {body["metadata"]["name"] for body in (first, second, other)} == {"vlm-pretrain-0123456789abcdef"}


def test_no_shared_workspace_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="set cluster.pvc"):
        pytorchjob.render(make_job(pvc=""))


def test_variable_that_is_set_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="AWS_SECRET_ACCESS_KEY is set by cluster.secrets and"):
        pytorchjob.render(make_job(job={"environment": {"AWS_SECRET_ACCESS_KEY": "x"}}))


def test_variables_of_every_pod_reach_the_training_too() -> None:
    body = pytorchjob.render(
        make_job(
            job={"environment": {"HF_ENDPOINT": "of the job"}}, environment={"AWS_REGION": "x", "HF_ENDPOINT": "y"}
        )
    )
    variables = {one["name"]: one.get("value") for one in pods_of(body)[0]["spec"]["containers"][0]["env"]}
    assert (variables["AWS_REGION"], variables["HF_ENDPOINT"]) == ("x", "of the job")
    with pytest.raises(ValueError, match="AWS_SECRET_ACCESS_KEY is set by environment and by secrets"):
        make_job(environment={"AWS_SECRET_ACCESS_KEY": "x"})


def test_no_gpus_means_a_job_on_cpus() -> None:
    body = pytorchjob.render(make_job(gpus=0, job={"resources": {}, "lock_memory": False}))
    (container,) = pods_of(body)[0]["spec"]["containers"]
    assert "limits" not in container["resources"]
    assert custom_resource_errors(body) == []


names = st.text(st.sampled_from("abz09-"), min_size=1, max_size=12).map(lambda text: f"a{text}a")


@settings(max_examples=15, deadline=None)
@given(
    nodes=st.integers(1, 64),
    gpus=st.sampled_from([1, 2, 4, 8]),
    job=st.fixed_dictionaries(
        {},
        optional={
            "queue": names,
            "priority_class": names,
            "deadline_s": st.integers(1, 10**6),
            "environment": st.dictionaries(names.map(str.upper), st.text(max_size=20), max_size=3),
            "grace_s": st.integers(1, 600),
        },
    ),
    cluster=st.fixed_dictionaries(
        {},
        optional={
            "node_selector": st.dictionaries(names, names, max_size=2),
            "gpu_cpu": st.sampled_from(["", "64", "500m"]),
            "shared_memory": st.sampled_from(["", "64Gi"]),
            "image_pull_secrets": st.lists(names, max_size=2),
            "tolerations": st.lists(st.fixed_dictionaries({"key": names}), max_size=2),
        },
    ),
)
def test_whatever_is_set_the_job_is_valid(nodes: int, gpus: int, job: dict[str, Any], cluster: dict[str, Any]) -> None:
    body = pytorchjob.render(
        make_job({"nodes": nodes, "processes_per_node": gpus, "tensor_parallel": 1}, job, **cluster)
    )
    assert custom_resource_errors(body) == []
    assert sum(replica["replicas"] for replica in body["spec"]["pytorchReplicaSpecs"].values()) == nodes
    check_pod(pods_of(body)[0]["metadata"], pods_of(body)[0]["spec"])


@given(st.text(max_size=100))
def test_any_run_id_makes_a_label(text: str) -> None:
    # Kubernetes' own rule.
    assert re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?", label_value(text))


def test_pods_follow_their_labels() -> None:
    prefix = "training.kubeflow.org"
    master = {f"{prefix}/replica-type": "master", f"{prefix}/replica-index": "0"}
    worker = {f"{prefix}/replica-type": "worker", f"{prefix}/replica-index": "3"}
    assert (pytorchjob.node_rank(master), pytorchjob.node_rank(worker)) == (0, 4)
    assert trainjob.node_rank({"batch.kubernetes.io/job-completion-index": "5"}) == 5


@pytest.mark.parametrize(
    ("kind", "body", "phase"),
    [
        (pytorchjob, {}, "pending"),
        (pytorchjob, {"spec": {"runPolicy": {"suspend": True}}}, "suspended"),
        (pytorchjob, {"status": {"conditions": [{"type": "Running", "status": "True"}]}}, "running"),
        (
            pytorchjob,
            {"status": {"conditions": [{"type": "Running", "status": "False"}, {"type": "Failed", "status": "True"}]}},
            "failed",
        ),
        (pytorchjob, {"status": {"conditions": [{"type": "Succeeded", "status": "True"}]}}, "succeeded"),
        (trainjob, {}, "pending"),
        (trainjob, {"spec": {"suspend": True}}, "suspended"),
        (trainjob, {"status": {"jobsStatus": [{"name": "node", "active": 1}]}}, "running"),
        (trainjob, {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}, "succeeded"),
        (trainjob, {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}, "failed"),
    ],
)
def test_status_is_read(kind: Any, body: dict[str, Any], phase: str) -> None:
    assert kind.status(body).phase == phase


def test_status_of_real_jobs_is_read() -> None:
    """Their Running condition is still there, and false."""
    jobs = json.loads((SUPPORT / "recorded" / "pytorchjobs" / "succeeded.json").read_text())
    found = [pytorchjob.status(job) for job in jobs]
    assert [(status.phase, status.reason) for status in found] == [("succeeded", "PyTorchJobSucceeded")] * 3


def test_grace_of_a_trainjob_is_its_runtimes() -> None:
    """Kueue 0.17 drops the field from a TrainJob's patch, and JobSet refuses the change: the job never starts."""
    (patch,) = trainjob.render(make_job({"backend": "trainjob"}))["spec"]["runtimePatches"]
    assert "terminationGracePeriodSeconds" not in json.dumps(patch)


def test_ranks_learn_when_to_print_their_stacks() -> None:
    (container,) = pods_of(pytorchjob.render(make_job(job={"stall_s": 1000})))[0]["spec"]["containers"]
    assert {"name": "VLM_STALL_S", "value": "750"} in container["env"], "before the launcher ends the job"
    (container,) = pods_of(pytorchjob.render(make_job(job={"stall_s": None})))[0]["spec"]["containers"]
    assert "VLM_STALL_S" not in [entry["name"] for entry in container["env"]]


def test_defaults_of_a_job_set_no_deadline() -> None:
    assert JobConfig().deadline_s is None
