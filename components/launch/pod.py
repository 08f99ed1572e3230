"""The training pod: one per node, the same for every kind of job."""

import hashlib
import json
from typing import Any

from components.device import DEVICE_VARIABLE
from components.errors import ConfigurationError
from components.images import IMAGE_USER
from components.launch.job import TrainingJob
from components.launch.stall import STALL_VARIABLE

RUN_LABEL = "vlm-pipelines/run-id"
STAGE_LABEL = "vlm-pipelines/stage"
OWNER_ANNOTATION = "vlm-pipelines/owner-run"
HASH_ANNOTATION = "vlm-pipelines/spec-hash"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"

# What torchrun puts before each line of a rank's output; `${rank}` is torchrun's, Kubernetes leaves it alone.
RANK_PREFIX = "[rank ${rank}] "
# How long torchrun waits for its ranks after a SIGTERM before it kills them; its own default of 30 s is less than a pod's.
SHUTDOWN_VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
_STACKS_SHARE = 0.75  # of the time after which the launcher ends a job that is stuck


def job_name(job: TrainingJob) -> str:
    """Return the job's name on a cluster: the same work has the same name, so it can't run twice at once."""
    return f"vlm-{job.name}-{job.key}"


def metadata(job: TrainingJob) -> dict[str, Any]:
    """Return the metadata of a job object without its spec hash and namespace."""
    labels = {"app.kubernetes.io/part-of": "vlm-pipelines", STAGE_LABEL: job.name, RUN_LABEL: label_value(job.run_id)}
    settings = job.cluster.job
    if settings.queue:
        labels[QUEUE_LABEL] = settings.queue
        if settings.priority_class:
            labels[PRIORITY_LABEL] = settings.priority_class
    return {"name": job_name(job), "labels": labels, "annotations": {OWNER_ANNOTATION: job.run_id}}


def label_value(text: str) -> str:
    """Return a text as a Kubernetes label value: at most 63 of letters, digits, `-`, `_`, `.`."""
    return "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "-" for char in text)[:63].strip(
        "-_."
    )


def with_hash(body: dict[str, Any]) -> dict[str, Any]:
    """Return a job object with the hash of its work: all but who asks for it."""
    metadata = body["metadata"]
    labels = {name: value for name, value in metadata["labels"].items() if name != RUN_LABEL}
    work = json.dumps([labels, body["spec"]], sort_keys=True)
    digest = hashlib.sha256(work.encode()).hexdigest()[:16]
    return {**body, "metadata": {**metadata, "annotations": {**metadata["annotations"], HASH_ANNOTATION: digest}}}


def torchrun_command(job: TrainingJob, node_rank: str, master_addr: str, master_port: str) -> list[str]:
    """Return the command of a pod.

    Args:
        job: The job.
        node_rank: The pod's number, as a reference to the variable that the operator sets: `$(RANK)`.
        master_addr: Address of node 0, likewise.
        master_port: Its port, likewise.
    """
    return [
        "python3",
        "-m",
        "torch.distributed.run",
        f"--nnodes={job.config.nodes}",
        f"--nproc-per-node={job.config.processes_per_node}",
        f"--node-rank={node_rank}",
        f"--master-addr={master_addr}",
        f"--master-port={master_port}",
        f"--rdzv-conf=timeout={job.cluster.job.rendezvous_timeout_s}",
        "--tee=3",
        "--max-restarts=0",
        "--module",
        job.module,
        *job.arguments,
    ]


def environment(job: TrainingJob) -> list[dict[str, Any]]:
    """Return the variables of the training container; secrets by reference, never by value.

    Raises:
        ConfigurationError: A variable is set twice.
    """
    values = {
        "OMP_NUM_THREADS": str(job.config.threads_per_process),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": RANK_PREFIX,
        SHUTDOWN_VARIABLE: str(job.cluster.job.grace_s),
        **stall_environment(job),
        **({"NCCL_DEBUG": "WARN", DEVICE_VARIABLE: "cuda"} if job.cluster.gpus else {}),
        **job.cluster.environment,
        **job.cluster.job.environment,
        **job.environment,
    }
    twice = sorted({secret.variable for secret in job.cluster.secrets} & set(values))
    if twice:
        raise ConfigurationError(
            f"{', '.join(twice)} is set by cluster.secrets and by the launcher: leave it out of cluster.secrets."
        )
    plain: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in sorted(values.items())]
    return plain + [
        {
            "name": secret.variable,
            "valueFrom": {"secretKeyRef": {"name": secret.secret, "key": secret.key, "optional": secret.optional}},
        }
        for secret in job.cluster.secrets
    ]


def stall_environment(job: TrainingJob) -> dict[str, str]:
    """Return the variable that lets ranks that are stuck print their stacks before the launcher ends them."""
    stall_s = job.cluster.job.stall_s
    return {STALL_VARIABLE: f"{stall_s * _STACKS_SHARE:g}"} if stall_s is not None else {}


def resources(job: TrainingJob) -> dict[str, Any]:
    """Return requests and limits of the training container: GPUs and devices, CPU and memory requests."""
    cluster = job.cluster
    devices = dict(cluster.job.resources)
    if cluster.gpus:
        devices[cluster.accelerator] = str(job.config.processes_per_node)
    requests = dict(devices)
    if cluster.gpu_cpu:
        requests["cpu"] = cluster.gpu_cpu
    if cluster.gpu_memory:
        requests["memory"] = cluster.gpu_memory
    found = {"requests": requests, "limits": devices}
    return {name: values for name, values in found.items() if values}


def volumes(job: TrainingJob) -> list[dict[str, Any]]:
    """Return the pod's volumes: the workspace and a /dev/shm that NCCL and loader workers can live with."""
    shared_memory: dict[str, Any] = {"medium": "Memory"}
    if job.cluster.shared_memory:
        shared_memory["sizeLimit"] = job.cluster.shared_memory
    return [
        {"name": "workspace", "persistentVolumeClaim": {"claimName": job.cluster.pvc}},
        {"name": "shared-memory", "emptyDir": shared_memory},
    ]


def volume_mounts(job: TrainingJob) -> list[dict[str, Any]]:
    """Return where the training container has the volumes."""
    return [
        {"name": "workspace", "mountPath": str(job.workspace)},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]


def container_security(job: TrainingJob) -> dict[str, Any]:
    """Return the training container's security context; it passes the restricted pod security standard unless it locks
    memory for InfiniBand."""
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    if job.cluster.job.lock_memory:
        capabilities["add"] = ["IPC_LOCK"]
    return {"allowPrivilegeEscalation": False, "capabilities": capabilities}


def pod_settings(job: TrainingJob) -> dict[str, Any]:
    """Return what a pod's spec has beside containers and volumes: user, nodes, service account."""
    cluster = job.cluster
    spec: dict[str, Any] = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": IMAGE_USER,
            "runAsGroup": IMAGE_USER,
            "fsGroup": IMAGE_USER,
            "fsGroupChangePolicy": "OnRootMismatch",  # else a volume of a million files is walked at every start
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if cluster.node_selector:
        spec["nodeSelector"] = dict(cluster.node_selector)
    if cluster.tolerations:
        spec["tolerations"] = [
            {name: value for name, value in toleration.model_dump().items() if value}
            for toleration in cluster.tolerations
        ]
    if cluster.affinity:
        spec["affinity"] = cluster.affinity
    if cluster.job.service_account:
        spec["serviceAccountName"] = cluster.job.service_account
    if cluster.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in cluster.image_pull_secrets]
    return spec


def pod_metadata(job: TrainingJob) -> dict[str, Any]:
    """Return the pods' labels and annotations; no service mesh, whose sidecar never ends and breaks NCCL."""
    return {
        "labels": {
            "app.kubernetes.io/part-of": "vlm-pipelines",
            "app.kubernetes.io/component": "training",
            STAGE_LABEL: job.name,
            "sidecar.istio.io/inject": "false",
        },
        "annotations": {"sidecar.istio.io/inject": "false", **job.cluster.job.annotations},
    }
