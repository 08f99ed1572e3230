"""What only a pod can tell: whether images are pulled, the workspace can be written, and MLflow answers from there."""

import json
import time
from collections.abc import Iterator
from typing import Any

from components.images import IMAGE_USER
from pipelines.doctor.finding import Finding, Mark
from pipelines.doctor.question import Question
from pipelines.doctor.reader import Object, Reader, Unreadable

PATIENCE_S = 300.0
_POLL_S = 2.0
_OVER = ("Succeeded", "Failed")
_REFUSED = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"}
)
# Runs in the image, which has Python but need not have this version of our code.
_PROBE = """
import json, os, sys, urllib.request
workspace, mlflow = sys.argv[1:]
found = {}
path = os.path.join(workspace, ".vlm-doctor-%s" % os.uname().nodename)
try:
    with open(path, "w") as file:
        file.write("x")
    os.remove(path)
    found["workspace"] = ""
except OSError as error:
    found["workspace"] = str(error)
if mlflow:
    try:
        urllib.request.urlopen(mlflow + "/health", timeout=20).read()
        found["mlflow"] = ""
    except OSError as error:
        found["mlflow"] = str(error)
print(json.dumps(found))
"""


def not_tried(question: Question) -> Iterator[Finding]:
    """Tell what is not known without a pod."""
    text = f"{', '.join(_images(question))}, the workspace's rights and MLflow were not tried from a pod"
    yield Finding("in a pod", Mark.UNKNOWN, text, "--pods starts a short one for each image")


def tried(reader: Reader, question: Question, patience_s: float = PATIENCE_S) -> Iterator[Finding]:
    """Start a short pod for each image, and tell what it found."""
    for number, image in enumerate(_images(question)):
        yield from _try(reader, question, image, f"vlm-doctor-{int(time.time())}-{number}", patience_s)


def pod(question: Question, image: str, name: str) -> Object:
    """Return a short pod as a stage's: the same image, user, volume, Secrets to pull with; no GPU."""
    cluster = question.config.cluster
    workspace, mlflow = str(question.config.workspace), question.config.tracking.uri
    command = ["python3", "-c", _PROBE, workspace, mlflow.rstrip("/") if mlflow.startswith("http") else ""]
    container: dict[str, Any] = {
        "name": "probe",
        "image": image,
        "command": command,
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "activeDeadlineSeconds": int(PATIENCE_S),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": IMAGE_USER,
            "runAsGroup": IMAGE_USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    if cluster.image_pull_policy:
        container["imagePullPolicy"] = cluster.image_pull_policy
    if cluster.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in cluster.image_pull_secrets]
    if cluster.pvc:
        container["volumeMounts"] = [{"name": "workspace", "mountPath": workspace}]
        spec["volumes"] = [{"name": "workspace", "persistentVolumeClaim": {"claimName": cluster.pvc}}]
    labels = {"app.kubernetes.io/part-of": "vlm-pipelines", "sidecar.istio.io/inject": "false"}
    metadata = {"name": name, "labels": labels, "annotations": {"sidecar.istio.io/inject": "false"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _images(question: Question) -> list[str]:
    cluster = question.config.cluster
    return list(dict.fromkeys((cluster.cpu_image, cluster.training_image)))


def _try(reader: Reader, question: Question, image: str, name: str, patience_s: float) -> Iterator[Finding]:
    pods = f"/api/v1/namespaces/{question.namespace}/pods"
    path = f"{pods}/{name}"
    try:
        reader.post(pods, pod(question, image, name))
    except Unreadable as error:
        yield Finding("in a pod", Mark.UNKNOWN, f"no pod can be made: {error}", "ask for the right to create pods")
        return
    try:
        seen = _wait(reader, path, patience_s)
        phase = seen["status"].get("phase")
        if phase not in _OVER:
            text = f"{image}: {_reason(seen)}"
            advice = "see its name, cluster.image_pull_secrets, and what kubectl get events says of the pod"
            yield Finding("image", Mark.BAD, text, advice)
            return
        yield Finding("image", Mark.GOOD, f"{image} is pulled, on {seen['spec'].get('nodeName', 'a node')}")
        yield from _told(question, reader.text(f"{path}/log"))
    finally:
        reader.delete(path)


def _wait(reader: Reader, path: str, patience_s: float) -> Object:
    """Return the pod when it is over, can't start, or has taken too long."""
    deadline = time.monotonic() + patience_s
    while True:
        seen = reader.look_again(path) or {"status": {"phase": "Gone"}, "spec": {}}
        over = seen["status"].get("phase") in (*_OVER, "Gone")
        if over or _waiting(seen).get("reason") in _REFUSED or time.monotonic() > deadline:
            return seen
        time.sleep(_POLL_S)


def _waiting(seen: Object) -> Object:
    for status in seen["status"].get("containerStatuses") or []:
        found: Object = (status.get("state") or {}).get("waiting") or {}
        return found
    return {}


def _reason(seen: Object) -> str:
    waiting = _waiting(seen)
    conditions = [one for one in seen["status"].get("conditions") or [] if one.get("status") == "False"]
    said = [
        *(f"{waiting[key]}" for key in ("reason", "message") if waiting.get(key)),
        *(one["message"] for one in conditions if one.get("type") == "PodScheduled" and one.get("message")),
    ]
    return ": ".join(said) or f"the pod is {seen['status'].get('phase', 'of unknown state')} and does not end"


def _told(question: Question, log: str) -> Iterator[Finding]:
    try:
        found = json.loads(log.strip().splitlines()[-1])
    except (ValueError, IndexError):
        yield Finding(
            "in a pod", Mark.BAD, f"the image's Python fails: {log.strip()[-300:]}", "is it this project's image?"
        )
        return
    workspace, uri = question.config.workspace, question.config.tracking.uri
    problem = found["workspace"]
    if problem:
        advice = f"let user and group {IMAGE_USER} write there: docs/cluster.md, When it fails"
        yield Finding("workspace", Mark.BAD, f"{workspace} can't be written: {problem}", advice)
    else:
        yield Finding("workspace", Mark.GOOD, f"{workspace} can be written by user {IMAGE_USER}")
    problem = found.get("mlflow")
    if problem is None:
        yield Finding(
            "MLflow", Mark.FACT, f"tracking.uri is {uri}, no server", "set it to http://mlflow:5000 or your own"
        )
    elif problem:
        advice = "see that the server runs, that its network policy lets this namespace in, and tracking.uri"
        yield Finding("MLflow", Mark.BAD, f"{uri} does not answer from a pod: {problem}", advice)
    else:
        yield Finding("MLflow", Mark.GOOD, f"{uri} answers from a pod")
