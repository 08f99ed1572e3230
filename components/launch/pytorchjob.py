"""PyTorchJob (kubeflow.org/v1): the job of Kubeflow's training operator."""

from collections.abc import Mapping
from typing import Any

from components.launch import pod
from components.launch.fit import check_fit
from components.launch.job import TrainingJob
from components.launch.job_kind import JobKind, JobStatus, Phase, true_conditions

_CONTAINER = "pytorch"  # the operator looks for this name
_PORT = 23456  # the operator's own default


def render(job: TrainingJob) -> dict[str, Any]:
    """Return the PyTorchJob of a training job: node 0 is the master, every other node a worker.

    The operator gives each pod `RANK` (the node's number), `MASTER_ADDR` and `MASTER_PORT`; torchrun does the rest. A
    pod that fails ends the job: nodes that are left alone in a collective would hang.

    Raises:
        ConfigurationError: The job has no shared workspace, or a variable is set twice.
    """
    check_fit(job.config, job.cluster)
    config, settings = job.config, job.cluster.job
    run_policy: dict[str, Any] = {"backoffLimit": settings.backoff_limit, "cleanPodPolicy": settings.clean_pods}
    if settings.deadline_s is not None:
        run_policy["activeDeadlineSeconds"] = settings.deadline_s
    if settings.ttl_s is not None:
        run_policy["ttlSecondsAfterFinished"] = settings.ttl_s
    if settings.queue:
        run_policy["suspend"] = True  # Kueue starts it
    if settings.gang_scheduling:
        run_policy["schedulingPolicy"] = {
            "minAvailable": config.nodes,
            **({"priorityClass": settings.priority_class} if settings.priority_class and not settings.queue else {}),
        }
    replicas = {"Master": _replicas(job, 1)}
    if config.nodes > 1:
        replicas["Worker"] = _replicas(job, config.nodes - 1)
    body = {
        "apiVersion": KIND.api_version,
        "kind": KIND.kind,
        "metadata": pod.metadata(job),
        "spec": {
            "nprocPerNode": str(config.processes_per_node),
            "runPolicy": run_policy,
            "pytorchReplicaSpecs": replicas,
        },
    }
    return pod.with_hash(body)


def _replicas(job: TrainingJob, count: int) -> dict[str, Any]:
    cluster = job.cluster
    container: dict[str, Any] = {
        "name": _CONTAINER,
        "image": cluster.training_image,
        "command": pod.torchrun_command(job, "$(RANK)", "$(MASTER_ADDR)", "$(MASTER_PORT)"),
        "env": pod.environment(job),
        "ports": [{"name": "pytorchjob-port", "containerPort": _PORT}],
        "resources": pod.resources(job),
        "securityContext": pod.container_security(job),
        "volumeMounts": pod.volume_mounts(job),
    }
    if cluster.image_pull_policy:
        container["imagePullPolicy"] = cluster.image_pull_policy
    spec = {
        **pod.pod_settings(job),
        "terminationGracePeriodSeconds": cluster.job.grace_s,
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": pod.volumes(job),
    }
    if cluster.job.priority_class and not cluster.job.queue:
        spec["priorityClassName"] = cluster.job.priority_class
    template = {"metadata": pod.pod_metadata(job), "spec": spec}
    return {"replicas": count, "restartPolicy": "Never", "template": template}


def status(body: Mapping[str, Any]) -> JobStatus:
    """Return how a PyTorchJob stands."""
    conditions = true_conditions(body)
    order: tuple[tuple[str, Phase], ...] = (
        ("Failed", "failed"),
        ("Succeeded", "succeeded"),
        ("Suspended", "suspended"),
        ("Running", "running"),
        ("Restarting", "pending"),
        ("Created", "pending"),
    )
    for name, phase in order:
        if name in conditions:
            condition = conditions[name]
            return JobStatus(phase, condition.get("reason", ""), condition.get("message", ""))
    suspended = ((body.get("spec") or {}).get("runPolicy") or {}).get("suspend")
    return JobStatus("suspended" if suspended else "pending")


def pod_selector(name: str) -> str:
    """Return the label selector of a job's pods."""
    return f"training.kubeflow.org/job-name={name}"


def node_rank(labels: Mapping[str, str]) -> int:
    """Return the node number of a pod: the master is 0."""
    index = int(labels.get("training.kubeflow.org/replica-index", "0"))
    return index if labels.get("training.kubeflow.org/replica-type", "").lower() == "master" else index + 1


KIND = JobKind(
    kind="PyTorchJob",
    group="kubeflow.org",
    version="v1",
    plural="pytorchjobs",
    container=_CONTAINER,
    operator="Kubeflow's training operator (v1)",
    render=render,
    status=status,
    pod_selector=pod_selector,
    node_rank=node_rank,
)
