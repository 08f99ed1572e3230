"""Kueue's queue: whether it is there, admits anything, covers what pods ask for, and may preempt."""

import re
from collections.abc import Iterator
from typing import Any

from components.yaml_text import parse_yaml
from pipelines.doctor.apis import kueue_version
from pipelines.doctor.finding import Finding, Mark
from pipelines.doctor.question import Question
from pipelines.doctor.reader import Object, Reader, Unreadable

_SUBJECT = "queue"
_KUEUE_NAMESPACE = "kueue-system"
_FRAMEWORKS = {"pytorchjob": "kubeflow.org/pytorchjob", "trainjob": "trainer.kubeflow.org/trainjob"}
_ASK = "see that integrations.frameworks has the kind of your jobs"
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


def controller(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell whether Kueue takes this kind of job, and how long it waits for a job's pods."""
    if not question.config.cluster.job.queue or not kueue_version(reader):
        return
    path = f"/api/v1/namespaces/{_KUEUE_NAMESPACE}/configmaps/kueue-manager-config"
    found = reader.get(path)
    if found is None:
        yield Finding(_SUBJECT, Mark.UNKNOWN, f"Kueue's configuration is not in the namespace {_KUEUE_NAMESPACE}", _ASK)
        return
    config = parse_yaml(found["data"]["controller_manager_config.yaml"]) or {}
    frameworks = (config.get("integrations") or {}).get("frameworks")
    if frameworks is None:
        yield Finding(_SUBJECT, Mark.UNKNOWN, "Kueue's configuration names no integrations.frameworks", _ASK)
    else:
        wanted = {name for backend, name in _FRAMEWORKS.items() if question.uses(backend)}
        missing = sorted(wanted - set(frameworks))
        if missing:
            advice = "add it to integrations.frameworks of Kueue's configuration: such a job waits for ever"
            yield Finding(_SUBJECT, Mark.BAD, f"Kueue does not take {', '.join(missing)}", advice)
        else:
            yield Finding(_SUBJECT, Mark.GOOD, f"Kueue takes {', '.join(sorted(wanted))}")
    patience = question.config.cluster.job.rendezvous_timeout_s
    eviction = _seconds(str((config.get("waitForPodsReady") or {}).get("timeout", "")))
    if eviction is not None and eviction > patience:
        text = f"Kueue waits {eviction:.0f} s for a job's pods, nodes that are there wait {patience} s"
        yield Finding(
            _SUBJECT,
            Mark.BAD,
            text,
            "set cluster.job.rendezvous_timeout_s to more than Kueue's waitForPodsReady.timeout",
        )


def _seconds(duration: str) -> float | None:
    """Return what a duration of Go's means, as "1h30m"; None where there is none."""
    if not re.fullmatch(r"(\d+(\.\d+)?(h|m|s))+", duration):
        return None
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", duration))


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
