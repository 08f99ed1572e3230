"""TrainJob (trainer.kubeflow.org/v1alpha1): the job of Kubeflow Trainer, on a cluster's own training runtime."""

from collections.abc import Mapping
from typing import Any

from components.launch import pod
from components.launch.fit import check_fit
from components.launch.job import TrainingJob
from components.launch.job_kind import JobKind, JobStatus, true_conditions
from components.launch.runtime import NODE

RUNTIMES = "clustertrainingruntimes"
_MANAGER = "vlm-pipelines/launcher"


def render(job: TrainingJob) -> dict[str, Any]:
    """Return the TrainJob of a training job.

    The runtime brings the pods, how they end and torchrun's variables (`PET_*`); what it can't know is patched in. Their
    grace period is the runtime's: Kueue 0.17 drops it from a patch, and JobSet refuses the change.

    Raises:
        ConfigurationError: A setting is the runtime's to make, the job has no shared workspace, or a variable is set
            twice.
    """
    check_fit(job.config, job.cluster)
    config, settings = job.config, job.cluster.job
    spec: dict[str, Any] = {
        "runtimeRef": {"apiGroup": KIND.group, "kind": "ClusterTrainingRuntime", "name": settings.runtime},
        "trainer": {
            "image": job.cluster.training_image,
            "command": pod.torchrun_command(job, "$(PET_NODE_RANK)", "$(PET_MASTER_ADDR)", "$(PET_MASTER_PORT)"),
            "env": pod.environment(job),
            "numNodes": config.nodes,
            "numProcPerNode": config.processes_per_node,
            "resourcesPerNode": pod.resources(job),
        },
        "runtimePatches": [{"manager": _MANAGER, "trainingRuntimeSpec": {"template": {"spec": _job_set(job)}}}],
    }
    if settings.deadline_s is not None:
        spec["activeDeadlineSeconds"] = settings.deadline_s
    if settings.queue:
        spec["suspend"] = True  # Kueue starts it
    body = {"apiVersion": KIND.api_version, "kind": KIND.kind, "metadata": pod.metadata(job), "spec": spec}
    return pod.with_hash(body)


def _job_set(job: TrainingJob) -> dict[str, Any]:
    """Return what is patched into the runtime's JobSet."""
    pod_spec = {
        **pod.pod_settings(job),
        "volumes": pod.volumes(job),
        "containers": [
            {
                "name": NODE,
                "volumeMounts": pod.volume_mounts(job),
                "securityContext": pod.container_security(job),
            }
        ],
    }
    template = {"metadata": pod.pod_metadata(job), "spec": pod_spec}
    return {"replicatedJobs": [{"name": NODE, "template": {"spec": {"template": template}}}]}


def status(body: Mapping[str, Any]) -> JobStatus:
    """Return how a TrainJob stands."""
    conditions = true_conditions(body)
    for name, phase in (("Failed", "failed"), ("Complete", "succeeded"), ("Suspended", "suspended")):
        if name in conditions:
            condition = conditions[name]
            return JobStatus(phase, condition.get("reason", ""), condition.get("message", ""))  # type: ignore[arg-type]
    found = body.get("status") or {}
    if any(child.get("active") or child.get("ready") for child in found.get("jobsStatus") or []):
        return JobStatus("running")
    return JobStatus("suspended" if (body.get("spec") or {}).get("suspend") else "pending")


def pod_selector(name: str) -> str:
    """Return the label selector of a job's training pods."""
    return f"jobset.sigs.k8s.io/jobset-name={name},jobset.sigs.k8s.io/replicatedjob-name={NODE}"


def node_rank(labels: Mapping[str, str]) -> int:
    """Return the node number of a pod."""
    return int(labels.get("batch.kubernetes.io/job-completion-index", "0"))


KIND = JobKind(
    kind="TrainJob",
    group="trainer.kubeflow.org",
    version="v1alpha1",
    plural="trainjobs",
    container=NODE,
    operator="Kubeflow Trainer (v2)",
    render=render,
    status=status,
    pod_selector=pod_selector,
    node_rank=node_rank,
    suspends=True,
)
