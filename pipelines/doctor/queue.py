"""Kueue's queue: whether it is there, admits anything, covers what pods ask for, and may preempt."""

from collections.abc import Iterator
from typing import Any

from pipelines.doctor.apis import kueue_version
from pipelines.doctor.finding import Finding, Mark
from pipelines.doctor.question import Question
from pipelines.doctor.reader import Object, Reader, Unreadable

_SUBJECT = "queue"
_MANIFEST = "manifests/overlays/kueue"


def queue(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell whether the queue of the settings takes training jobs."""
    name = question.config.cluster.job.queue
    version = kueue_version(reader)
    if not name or not version:
        return
    api = f"/apis/kueue.x-k8s.io/{version}"
    local = reader.get(f"{api}/namespaces/{question.job_namespace}/localqueues/{name}")
    if local is None:
        text = f"no LocalQueue {name} in the namespace {question.job_namespace}"
        yield Finding(_SUBJECT, Mark.BAD, text, f"make it ({_MANIFEST}), or set cluster.job.queue")
        return
    yield _active(f"LocalQueue {name}", local)
    yield from _cluster_queue(reader, question, api, local["spec"]["clusterQueue"])
    priority = question.config.cluster.job.priority_class
    if priority and reader.get(f"{api}/workloadpriorityclasses/{priority}") is None:
        text = f"no WorkloadPriorityClass {priority}"
        yield Finding(_SUBJECT, Mark.BAD, text, f"make it ({_MANIFEST}), or set cluster.job.priority_class")


def _cluster_queue(reader: Reader, question: Question, api: str, name: str) -> Iterator[Finding]:
    subject = f"ClusterQueue {name}"
    try:
        found = reader.get(f"{api}/clusterqueues/{name}")
    except Unreadable as error:
        yield Finding(
            _SUBJECT, Mark.UNKNOWN, f"{subject} can't be read: {error}", "kubectl get clusterqueue, as an administrator"
        )
        return
    if found is None:
        yield Finding(_SUBJECT, Mark.BAD, f"no {subject}, which the LocalQueue names", f"make it ({_MANIFEST})")
        return
    yield _active(subject, found)
    covered = {one for group in found["spec"].get("resourceGroups") or [] for one in group["coveredResources"]}
    missing = sorted(_requested(question) - covered)
    if missing:
        advice = "add them to its coveredResources: a job that asks for what is not covered is never admitted"
        yield Finding(_SUBJECT, Mark.BAD, f"{subject} does not cover {', '.join(missing)}", advice)


def _active(subject: str, found: Object) -> Finding:
    conditions = {one["type"]: one for one in (found.get("status") or {}).get("conditions") or []}
    active: dict[str, Any] = conditions.get("Active", {})
    if active.get("status") == "True":
        return Finding(_SUBJECT, Mark.GOOD, f"{subject} is active")
    said = active.get("message") or "Kueue has not said so"
    return Finding(_SUBJECT, Mark.BAD, f"{subject} is not active: {said}", "see whether Kueue runs, and what it names")


def _requested(question: Question) -> set[str]:
    """Return the resources that a training pod asks for."""
    cluster = question.config.cluster
    found = set(cluster.job.resources)
    if cluster.gpus:
        found.add(cluster.accelerator)
    if cluster.gpu_cpu:
        found.add("cpu")
    if cluster.gpu_memory:
        found.add("memory")
    return found
