"""Why a job waits: queue, quota, image, volume or node, in the cluster's own words."""

from collections.abc import Callable, Mapping
from typing import Any

from components.launch.job_kind import JobStatus

Object = Mapping[str, Any]
_HINTS = {
    "ErrImagePull": "is cluster.gpu_image right, and may this namespace pull it (cluster.image_pull_secrets)?",
    "ImagePullBackOff": "is cluster.gpu_image right, and may this namespace pull it (cluster.image_pull_secrets)?",
    "InvalidImageName": "cluster.gpu_image is no image name",
    "CreateContainerConfigError": "is a Secret of cluster.secrets missing?",
    "FailedMount": "is cluster.pvc a ReadWriteMany volume of this namespace?",
    "FailedAttachVolume": "is cluster.pvc a ReadWriteMany volume?",
}
_SHOWN_PODS = 3


def reasons(
    job: Object,
    status: JobStatus,
    pods: list[dict[str, Any]],
    events: Callable[[str], list[dict[str, Any]]],
    workloads: Callable[[str], list[dict[str, Any]]],
) -> list[str]:
    """Return why a job does not run, a line each; nothing when all its pods run.

    Args:
        job: The job's object.
        status: How it stands.
        pods: Its pods.
        events: Returns the events of an object by its uid.
        workloads: Returns Kueue's workloads of a job by its uid.
    """
    uid = job["metadata"]["uid"]
    if status.phase == "suspended":
        return _in_the_queue(job, status, workloads(uid))
    pending = [pod for pod in pods if pod["status"].get("phase") == "Pending"]
    if not pods:
        warnings = _warnings(events(uid))
        return warnings[-_SHOWN_PODS:] or ["no pods yet: the operator has not made any (does it run?)"]
    lines: dict[str, list[str]] = {}  # the same reason is told once, with all pods that have it
    for pod in pending:
        lines.setdefault(_of_pod(pod, events if len(lines) < _SHOWN_PODS else lambda _: []), []).append(
            pod["metadata"]["name"]
        )
    return [f"{_names(names)}: {reason}" for reason, names in lines.items()]


def _in_the_queue(job: Object, status: JobStatus, workloads: list[dict[str, Any]]) -> list[str]:
    queue = (job["metadata"].get("labels") or {}).get("kueue.x-k8s.io/queue-name")
    if not queue:
        return [f"suspended: {status.message or 'someone has set spec.suspend'}"]
    for workload in workloads:
        conditions = (workload.get("status") or {}).get("conditions") or []
        for condition in conditions:
            waits = condition["type"] == "QuotaReserved" and condition.get("status") == "False"
            stopped = condition["type"] == "Evicted" and condition.get("status") == "True"
            if (waits or stopped) and condition.get("message"):
                return [f"in queue {queue}: {condition['message']}"]
    if not workloads:
        return [f"in queue {queue}: Kueue has not seen the job yet (is there a LocalQueue of this name here?)"]
    return [f"in queue {queue}: waiting for admission"]


def _of_pod(pod: Object, events: Callable[[str], list[dict[str, Any]]]) -> str:
    status = pod["status"]
    statuses = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in statuses:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            return _with_hint(reason, waiting.get("message", ""))
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition.get("status") == "False":
            return f"{condition.get('reason', 'Unschedulable')}: {condition.get('message', 'no node fits')}"
    warnings = _warnings(events(pod["metadata"]["uid"]))
    if warnings:
        return warnings[-1]
    return "the image is pulled and volumes are mounted" if status.get("conditions") else "not scheduled yet"


def _warnings(events: list[dict[str, Any]]) -> list[str]:
    warnings = [event for event in events if event.get("type") == "Warning"]
    return [_with_hint(event.get("reason", ""), event.get("message", "")) for event in warnings]


def _with_hint(reason: str, message: str) -> str:
    said = f"{reason}: {message}" if message else reason
    if "exceeded quota" in message:
        return f"{said} (ask for less, or for a larger ResourceQuota)"
    if "violates PodSecurity" in message and "IPC_LOCK" in message:
        return f"{said} (cluster.job.lock_memory needs a namespace with pod-security.kubernetes.io/enforce: privileged)"
    return f"{said} ({_HINTS[reason]})" if reason in _HINTS else said


def _names(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN_PODS])
    return shown if len(names) <= _SHOWN_PODS else f"{shown} and {len(names) - _SHOWN_PODS} more"
