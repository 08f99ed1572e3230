"""Why a job waits: queue, quota, image, volume or node, in the cluster's own words."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from components.launch.evidence import Evidence, shortened
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
_SAME_REASON_S = 600.0
_UNSEEN = (
    "Kueue has not seen the job yet (is there a LocalQueue of this name here, is its integration for this kind of job on, and "
    "does it serve v1beta2?)"
)
# What a registry answers; one that can't be reached may be back.
_NO_IMAGE = re.compile(
    r"not found|manifest unknown|does not exist|access denied|unauthorized|authorization failed|403 Forbidden",
    re.IGNORECASE,
)
# Trainer's event when it can't make or change a TrainJob's JobSet, which it goes on trying for ever.
_NEVER_MADE = ("TrainJobResourcesCreationFailed",)
_STAYS = re.compile(r"immutable|is invalid|Invalid value|denied the request|Unsupported value|Required value")
_PASSES = re.compile(r"failed calling webhook|object has been modified|exceeded quota|connection refused|timeout")
_PREEMPTOR = re.compile(r"workload \(UID: ([\w-]+)")


def reasons(
    job: Object,
    status: JobStatus,
    pods: list[dict[str, Any]],
    events: Callable[[str], list[dict[str, Any]]],
    workloads: Callable[[str | None], list[dict[str, Any]]],
) -> list[str]:
    """Return why a job does not run, a line each; nothing when all its pods run.

    Args:
        job: The job's object.
        status: How it stands.
        pods: Its pods.
        events: Returns the events of an object by its uid.
        workloads: Returns Kueue's workloads of a job by its uid, or all of the namespace.
    """
    uid = job["metadata"]["uid"]
    if status.phase == "suspended":
        return _in_the_queue(job, status, workloads)
    pending = [pod for pod in pods if pod["status"].get("phase") == "Pending"]
    if not pods:
        warnings = _warnings(events(uid))
        return warnings[-_SHOWN_PODS:] or ["no pods yet: the operator has not made any (does it run?)"]
    lines: dict[str, list[str]] = {}  # the same reason is told once, with all pods that have it
    for pod in pending:
        lines.setdefault(pod_reason(pod, events if len(lines) < _SHOWN_PODS else lambda _: []), []).append(
            pod["metadata"]["name"]
        )
    return [f"{_names(names)}: {reason}" for reason, names in lines.items()]


def hopeless(job: Object, pods: list[dict[str, Any]], events: Callable[[str], list[dict[str, Any]]]) -> Evidence | None:
    """Return why a job without running pods will never have them, if that is certain.

    Args:
        job: The job's object.
        pods: Its pods.
        events: Returns the events of an object by its uid.
    """
    for pod in pods:
        if said := _missing_image(pod):
            return Evidence(image=f"pod {pod['metadata']['name']}: {said}")
    if pods:
        return None
    for event in events(job["metadata"]["uid"]):
        message = str(event.get("message", ""))
        if event.get("reason") in _NEVER_MADE and _STAYS.search(message) and not _PASSES.search(message):
            return Evidence(refused=f"{event['reason']}: {shortened(message)}")
    return None


def _missing_image(pod: Object) -> str:
    """Return what the cluster says of an image that is not there or may not be pulled; a registry that is away passes."""
    status = pod["status"]
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), str(waiting.get("message", ""))
        if reason in ("InvalidImageName", "ErrImageNeverPull"):
            return shortened(f"{reason}: {message}")
        if reason in ("ErrImagePull", "ImagePullBackOff") and _NO_IMAGE.search(message):
            return shortened(f"{reason}: {message}")
    return ""


def _in_the_queue(job: Object, status: JobStatus, workloads: Callable[[str | None], list[dict[str, Any]]]) -> list[str]:
    queue = (job["metadata"].get("labels") or {}).get("kueue.x-k8s.io/queue-name")
    if not queue:
        return [f"suspended: {status.message or 'someone has set spec.suspend'}"]
    own = workloads(job["metadata"]["uid"])
    if not own:
        return [f"in queue {queue}: {_UNSEEN}"]
    conditions = {
        condition["type"]: condition
        for workload in own
        for condition in (workload.get("status") or {}).get("conditions") or []
        if condition.get("message")
    }
    lines = []
    evicted, quota = conditions.get("Evicted", {}), conditions.get("QuotaReserved", {})
    if evicted.get("status") == "True":
        how = "preempted" if evicted.get("reason") == "Preempted" else f"evicted ({evicted.get('reason', 'Evicted')})"
        lines.append(f"{how}: {evicted['message']}{_preemptor(evicted['message'], workloads)}")
    if quota.get("status") == "False" and quota["message"] != evicted.get("message"):
        lines.append(f"in queue {queue}: {quota['message']}")
    return lines or [f"in queue {queue}: waiting for admission"]


def _preemptor(message: str, workloads: Callable[[str | None], list[dict[str, Any]]]) -> str:
    """Return who took the place, by the uid that Kueue names, when it is in this namespace."""
    match = _PREEMPTOR.search(message)
    if not match:
        return ""
    for workload in workloads(None):
        metadata = workload["metadata"]
        if metadata.get("uid") == match.group(1):
            owners = metadata.get("ownerReferences") or []
            name = f"{owners[0]['kind']} {owners[0]['name']}" if owners else f"workload {metadata['name']}"
            priority = (workload.get("spec") or {}).get("priority")
            return f" (by {name}{'' if priority is None else f', priority {priority}'})"
    return " (by a job of another namespace)"


def pod_reason(pod: Object, events: Callable[[str], list[dict[str, Any]]]) -> str:
    """Return why a pod does not run yet.

    Args:
        pod: The pod.
        events: Returns the events of an object by its uid.
    """
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
        # "Error: ErrImagePull" comes after the event that names the image.
        return next((warning for warning in reversed(warnings) if ": Error: " not in warning), warnings[-1])
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


class Spoken:
    """Says why a job waits when the reason changes, and again after ten minutes.

    Args:
        name: How the job is called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: list[str] = []
        self._when = 0.0

    def say(self, lines: list[str]) -> None:
        """Take the reasons of this moment; none when it does not wait."""
        now = time.monotonic()
        if lines and (lines != self._last or now - self._when >= _SAME_REASON_S):
            self._when = now
            for line in lines:
                print(f"{self._name} waits: {line}", flush=True)
        self._last = lines
