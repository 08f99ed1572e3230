"""The volume that all stages share."""

from collections.abc import Iterator

from pipelines.doctor.finding import Finding, Mark
from pipelines.doctor.nodes import ready_nodes
from pipelines.doctor.question import Question
from pipelines.doctor.reader import Object, Reader, Unreadable

_SUBJECT = "workspace"
_MANIFEST = "manifests/base/workspace.yaml"


def claim(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell whether the claim is there, bound, and mountable by pods of several nodes."""
    name = question.config.cluster.pvc
    if not name:
        yield Finding(_SUBJECT, Mark.BAD, "no volume claim is named", "set cluster.pvc to one that all pods can mount")
        return
    found = reader.get(f"/api/v1/namespaces/{question.namespace}/persistentvolumeclaims/{name}")
    if found is None:
        text = f"no claim {name} in the namespace {question.namespace}"
        yield Finding(_SUBJECT, Mark.BAD, text, f"make it ({_MANIFEST}), or set cluster.pvc")
        return
    yield _bound(reader, found)
    yield _shared(reader, found)


def _bound(reader: Reader, found: Object) -> Finding:
    spec, status = found["spec"], found.get("status") or {}
    name, phase = found["metadata"]["name"], status.get("phase", "Pending")
    storage = str(spec.get("storageClassName") or "")
    kind = _class(reader, storage)
    size = (status.get("capacity") or spec["resources"]["requests"]).get("storage", "")
    text = f"{name}, {size}, storage class {storage or '(none)'}{kind}"
    if phase == "Bound":
        return Finding(_SUBJECT, Mark.GOOD, text)
    if "WaitForFirstConsumer" in kind:
        return Finding(_SUBJECT, Mark.FACT, f"{text}: bound when the first pod mounts it")
    return Finding(_SUBJECT, Mark.BAD, f"{text}, {phase}", f"kubectl describe pvc {name} says why it is not bound")


def _class(reader: Reader, name: str) -> str:
    """Return who makes the volumes of a class, and when; nothing where that may not be seen."""
    try:
        found = reader.get(f"/apis/storage.k8s.io/v1/storageclasses/{name}") if name else None
    except Unreadable:
        return ""
    return f" ({found['provisioner']}, {found.get('volumeBindingMode', 'Immediate')})" if found else ""


def _shared(reader: Reader, found: Object) -> Finding:
    modes = found["spec"].get("accessModes") or []
    text = f"access mode {', '.join(modes)}"
    if "ReadWriteMany" in modes:
        return Finding(_SUBJECT, Mark.GOOD, text)
    advice = "take a ReadWriteMany class: pods of two nodes can't mount this one at once"
    try:
        count = len(ready_nodes(reader))
    except Unreadable as error:
        return Finding(_SUBJECT, Mark.UNKNOWN, f"{text}, and how many nodes there are can't be read ({error})", advice)
    if count == 1 and "ReadWriteOncePod" not in modes:
        return Finding(_SUBJECT, Mark.GOOD, f"{text}, enough for the one node of this cluster")
    return Finding(_SUBJECT, Mark.BAD, f"{text}, {count} nodes", advice)
