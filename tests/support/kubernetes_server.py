"""A small Kubernetes API over HTTP: training jobs, pods, logs, events, and faults that a test asks for.

The real client talks to it. Jobs are checked strictly against their CustomResourceDefinitions when they are created.
"""

import datetime
import json
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from kubernetes.client import ApiClient, Configuration

from tests.support.json_server import JsonHandler, JsonServer, Object
from tests.support.kubernetes_schemas import custom_resource_errors

_CUSTOM = re.compile(r"^/apis/([^/]+)/([^/]+)/namespaces/([^/]+)/([^/]+)(?:/([^/]+))?$")
_PODS = re.compile(r"^/api/v1/(?:namespaces/([^/]+)/)?pods(?:/([^/]+)/log)?$")
_CLUSTER_OBJECT = re.compile(r"^/apis/trainer\.kubeflow\.org/v1alpha1/clustertrainingruntimes/([^/]+)$")
_JOB_UID = "kueue.x-k8s.io/job-uid"
_EVENTS = re.compile(r"^/api/v1/(?:namespaces/([^/]+)/)?events$")


class KubernetesServer:
    """The server's state; its methods play operator and kubelet."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.jobs: dict[str, Object] = {}
        self.pods: dict[str, Object] = {}
        self.logs: dict[str, list[tuple[str, str]]] = {}
        self.events: list[Object] = []
        self.workloads: list[Object] = []
        self.runtimes: dict[str, Object] = {}
        self.created: list[Object] = []
        self.requests: list[str] = []
        self.faults: deque[tuple[str, int | str | tuple[int, str]]] = deque()
        self.cut_logs_after: int | None = None
        self.missing_apis: set[str] = set()
        self.keeps_deleted = False
        """Whether deleted jobs stay, as they do while a pod of theirs can't end."""
        self.stopped = False
        self.on_create: Callable[[Object], None] = lambda job: None
        self.on_patch: Callable[[Object], None] = lambda job: None
        self.on_delete: Callable[[Object], None] = lambda job: None
        self._http = JsonServer(_Handler, self)
        self.url = self._http.url

    def close(self) -> None:
        self.stopped = True
        self._http.close()

    def client(self) -> ApiClient:
        configuration = Configuration()
        configuration.host = self.url
        configuration.connection_pool_maxsize = 20
        configuration.retries = False
        return ApiClient(configuration)

    # Operator and kubelet

    def job(self) -> Object:
        """The only job."""
        with self.lock:
            (job,) = self.jobs.values()
            return job

    def add_pod(self, name: str, labels: Object, phase: str = "Running", container: str = "pytorch") -> Object:
        state: Object = {"running": {}} if phase == "Running" else {}
        pod = {
            "metadata": {"name": name, "uid": str(uuid.uuid4()), "labels": labels},
            "status": {"phase": phase, "containerStatuses": [{"name": container, "restartCount": 0, "state": state}]},
        }
        with self.lock:
            self.pods[name] = pod
            self.logs[name] = []
        return pod

    def add_workload(self, uid: str, job_uid: str, name: str, conditions: list[Object], priority: int = 0) -> Object:
        """Add a Workload as Kueue makes it for a job, with the fields that the launcher reads."""
        workload = {
            "metadata": {
                "name": f"pytorchjob-{name}",
                "uid": uid,
                "labels": {_JOB_UID: job_uid},
                "ownerReferences": [
                    {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": name, "uid": job_uid}
                ],
            },
            "spec": {"priority": priority},
            "status": {"conditions": conditions},
        }
        with self.lock:
            self.workloads.append(workload)
        return workload

    def say(self, pod: str, line: str) -> None:
        with self.lock:
            self.logs[pod].append((_stamp(), line))

    def end_pod(self, name: str, code: int, reason: str = "") -> None:
        with self.lock:
            status = self.pods[name]["status"]
            status["phase"] = "Succeeded" if code == 0 else "Failed"
            terminated = {"exitCode": code, "reason": reason or ("Completed" if code == 0 else "Error")}
            status["containerStatuses"][0]["state"] = {"terminated": {**terminated, "finishedAt": _stamp()}}

    def set_condition(self, type_: str, reason: str = "", message: str = "") -> None:
        with self.lock:
            conditions = self.job().setdefault("status", {}).setdefault("conditions", [])
            for condition in conditions:
                if condition["type"] in ("Running", "Suspended"):
                    condition["status"] = "False"
            conditions.append({"type": type_, "status": "True", "reason": reason, "message": message})

    def add_event(self, uid: str, reason: str, message: str) -> None:
        with self.lock:
            self.events.append(
                {
                    "involvedObject": {"uid": uid},
                    "type": "Warning",
                    "reason": reason,
                    "message": message,
                    "lastTimestamp": _stamp(),
                }
            )


def _stamp() -> str:
    now = datetime.datetime.now(datetime.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.time_ns() % 10**9:09}Z"


class _Handler(JsonHandler):
    state: KubernetesServer

    def serve(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        state = self.state
        with state.lock:
            state.requests.append(f"{method} {path}")
            fault = self._fault(method, path)
        if isinstance(fault, int):
            fault = (fault, f"fault {fault}")
        if isinstance(fault, tuple):
            return self.answer(fault[0], _status(*fault))
        if fault == "cut before":
            return self._cut()
        log = _PODS.match(path)
        if log and log.group(2):
            return self._log(log.group(2), query)
        with state.lock:
            code, answer = self._dispatch(method, path, query, json.loads(body or b"null"))
        if fault == "cut after":
            return self._cut()
        return self.answer(code, answer)

    def _fault(self, method: str, path: str) -> int | str | tuple[int, str] | None:
        for index, (pattern, fault) in enumerate(self.state.faults):
            if re.search(pattern, f"{method} {path}"):
                del self.state.faults[index]
                return fault
        return None

    def _dispatch(self, method: str, path: str, query: Object, body: Any) -> tuple[int, Object]:
        state = self.state
        if custom := _CUSTOM.match(path):
            group, _, namespace, plural, name = custom.groups()
            if group in state.missing_apis:
                return 404, {"message": "404 page not found"}
            if plural == "workloads":
                uid = query.get("labelSelector", "").removeprefix(f"{_JOB_UID}=")
                found = [one for one in state.workloads if not uid or one["metadata"]["labels"].get(_JOB_UID) == uid]
                return 200, {"items": found}
            return self._job(method, namespace, plural, name, body)
        if runtime := _CLUSTER_OBJECT.match(path):
            found = state.runtimes.get(runtime.group(1))
            return (200, found) if found else (404, _status(404, "no such runtime", runtime.group(1)))
        if _PODS.match(path) and "fieldSelector" in query:
            name = query["fieldSelector"].removeprefix("metadata.name=")
            return 200, {"items": [pod for pod in state.pods.values() if pod["metadata"]["name"] == name]}
        if _PODS.match(path):
            wanted = dict(part.split("=") for part in query["labelSelector"].split(","))
            found = [pod for pod in state.pods.values() if wanted.items() <= pod["metadata"]["labels"].items()]
            return 200, {"items": found}
        if _EVENTS.match(path):
            uid = query["fieldSelector"].removeprefix("involvedObject.uid=")
            return 200, {"items": [event for event in state.events if event["involvedObject"]["uid"] == uid]}
        return 404, _status(404, f"no route {path}")

    def _job(self, method: str, namespace: str, plural: str, name: str | None, body: Any) -> tuple[int, Object]:
        state = self.state
        if method == "POST":
            errors = custom_resource_errors(body)
            if errors:
                return 422, _status(422, "; ".join(errors))
            name = body["metadata"]["name"]
            if name in state.jobs:
                return 409, _status(409, f'{plural} "{name}" already exists', name)
            body["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": namespace, "creationTimestamp": _stamp()}
            state.jobs[name] = body
            state.created.append(body)
            state.on_create(body)
            return 201, body
        assert name is not None
        if name not in state.jobs:
            return 404, _status(404, f'{plural} "{name}" not found', name)
        job = state.jobs[name]
        if method == "PATCH":
            for part in ("labels", "annotations"):
                job["metadata"].setdefault(part, {}).update(body.get("metadata", {}).get(part, {}))
            job["spec"].update(body.get("spec", {}))
            state.on_patch(job)
        if method == "DELETE":
            if (uid := (body or {}).get("preconditions", {}).get("uid")) and uid != job["metadata"]["uid"]:
                return 409, _status(409, "the UID in the precondition does not match", name)
            assert body["propagationPolicy"] == "Foreground"
            job["metadata"]["deletionTimestamp"] = _stamp()
            state.on_delete(job)
            threading.Timer(0.15, self._remove, args=(name, job["metadata"]["uid"])).start()
        return 200, job

    def _remove(self, name: str, uid: str) -> None:
        while self.state.keeps_deleted and not self.state.stopped:
            time.sleep(0.02)
        with self.state.lock:
            if self.state.jobs.get(name, {}).get("metadata", {}).get("uid") == uid:
                del self.state.jobs[name]
                self.state.pods.clear()

    def _log(self, name: str, query: Object) -> None:
        state = self.state
        with state.lock:
            if name not in state.pods:
                return self.answer(404, _status(404, f'pods "{name}" not found', name))
            if not state.pods[name]["status"]["containerStatuses"][0]["state"]:
                return self.answer(400, _status(400, "container is waiting to start: ContainerCreating"))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        since = None
        if "sinceSeconds" in query:
            moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=int(query["sinceSeconds"]))
            since = moment.strftime("%Y-%m-%dT%H:%M:%S")
        sent = 0
        if "tailLines" in query:
            sent = max(0, len(state.logs[name]) - int(query["tailLines"]))
        while not state.stopped:
            with state.lock:
                gone = name not in state.pods
                ended = gone or state.pods[name]["status"]["phase"] in ("Succeeded", "Failed")
                lines = state.logs[name][sent:]
                sent += len(lines)
                cut = state.cut_logs_after is not None and sent >= state.cut_logs_after
                if cut:
                    state.cut_logs_after = None
            for stamp, line in lines:
                if since is None or stamp >= since:
                    text = f"{stamp} {line}\n" if query.get("timestamps", "").lower() == "true" else f"{line}\n"
                    self._chunk(text.encode())
            if cut:
                return self._cut()
            if ended or query.get("follow", "").lower() != "true":
                break
            time.sleep(0.02)
        self._chunk(b"")
        return None

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _cut(self) -> None:
        """Close the connection without an answer."""
        self.close_connection = True
        self.connection.close()


def _status(code: int, message: str, name: str = "") -> Object:
    details = {"details": {"name": name}} if name else {}
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, **details}
