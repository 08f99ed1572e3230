"""A cluster as `vlm doctor --cluster` reads it: objects by their path, each valid by Kubernetes' or Kueue's own schema.

Argo's configuration is that of Kubeflow Pipelines 2.17.
"""

import datetime
import json
from typing import Any

from kubernetes.client import ApiClient, Configuration

from tests.support.json_server import JsonHandler, JsonServer, Object
from tests.support.kubernetes_schemas import check_core, custom_resource_errors

CORE = "/api/v1"
NAMESPACED = f"{CORE}/namespaces/vlm-pipelines"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
KUEUE = "/apis/kueue.x-k8s.io/v1beta2"
ARGO = f"{CORE}/namespaces/kubeflow/configmaps/workflow-controller-configmap"
KUEUE_CONFIG = f"{CORE}/namespaces/kueue-system/configmaps/kueue-manager-config"
REVIEWS = "/apis/authorization.k8s.io/v1"


class ClusterObjects:
    """The server's state.

    Attributes:
        objects: Path of the API to what lies there.
        forbidden: Beginnings of paths that may not be seen.
        denied: Verbs and resources that nobody may, as ("create", "pytorchjobs").
        pods: What becomes of a pod that is made: its status.
        log: What every pod prints.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Object] = healthy()
        self.forbidden: set[str] = set()
        self.denied: set[tuple[str, str]] = set()
        self.pods: Object = {"phase": "Succeeded"}
        self.log = '{"workspace": "", "mlflow": ""}\n'
        self.made: list[Object] = []
        self.reviews: list[Object] = []
        self.deleted: list[str] = []
        self._http = JsonServer(_Handler, self)
        self.url = self._http.url

    def close(self) -> None:
        self._http.close()

    def client(self) -> ApiClient:
        configuration = Configuration()
        configuration.host = self.url
        configuration.retries = False
        return ApiClient(configuration)

    def put(self, path: str, body: Object) -> None:
        """Put an object there, which must be valid."""
        check_core(body)
        self.objects[path] = body


class _Handler(JsonHandler):
    state: ClusterObjects

    def serve(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        state = self.state
        if any(path.startswith(beginning) for beginning in state.forbidden):
            user = 'User "someone" cannot'
            return self.answer(403, {"kind": "Status", "code": 403, "message": f"{path} is forbidden: {user} do this"})
        if method == "POST":
            return self.answer(201, self._made(path, json.loads(body)))
        if method == "DELETE":
            state.deleted.append(path)
            return self.answer(200, {})
        if path.endswith("/log"):
            return self._text(state.log)
        found = state.objects.get(path)
        if found is None:
            return self.answer(404, {"kind": "Status", "code": 404, "message": "not found"})
        return self.answer(200, found)

    def _made(self, path: str, body: Object) -> Object:
        state = self.state
        if path.startswith(REVIEWS):
            state.reviews.append(body)
            asked = body["spec"]["resourceAttributes"]
            return {**body, "status": {"allowed": (asked["verb"], asked["resource"]) not in state.denied}}
        check_core(body)
        state.made.append(body)
        seen = {**body, "status": state.pods, "spec": {**body["spec"], "nodeName": "gpu-0"}}
        state.objects[f"{path}/{body['metadata']['name']}"] = seen
        return seen

    def _text(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def node(name: str, gpus: int = 8, driver: str = "580", **spec: Any) -> Object:
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/cuda.driver-version.major": driver}
    info = dict.fromkeys(
        (
            "machineID",
            "systemUUID",
            "bootID",
            "kernelVersion",
            "osImage",
            "containerRuntimeVersion",
            "kubeProxyVersion",
        ),
        "x",
    )
    body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels if gpus and driver else {}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "64", "memory": "512Gi", **({"nvidia.com/gpu": str(gpus)} if gpus else {})},
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {**info, "kubeletVersion": "v1.34.1", "operatingSystem": "linux", "architecture": "amd64"},
        },
    }
    check_core(body)
    return body


def lease(name: str, behind_s: float = 3.0) -> Object:
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=behind_s)
    body = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": 40,
            "renewTime": then.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }
    check_core(body)
    return body


def claim(mode: str = "ReadWriteMany", phase: str = "Bound") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "vlm-workspace", "namespace": "vlm-pipelines"},
        "spec": {"accessModes": [mode], "resources": {"requests": {"storage": "1Ti"}}, "storageClassName": "shared"},
        "status": {"phase": phase, **({"capacity": {"storage": "1Ti"}} if phase == "Bound" else {})},
    }


def argo(defaults: str) -> Object:
    metadata = {"name": "workflow-controller-configmap", "namespace": "kubeflow"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"workflowDefaults": defaults}}


def kueue_config(text: str) -> Object:
    metadata = {"name": "kueue-manager-config", "namespace": "kueue-system"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {"controller_manager_config.yaml": text},
    }


def deployment(name: str, image: str) -> Object:
    labels = {"app": name}
    spec = {"containers": [{"name": "main", "image": image}]}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }
    check_core(body)
    return body


def resources(*names: str) -> Object:
    return {"kind": "APIResourceList", "resources": [{"name": name} for name in names]}


def kueue(kind: str, spec: Object) -> Object:
    metadata = {"name": "vlm", "namespace": "vlm-pipelines"}
    body = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": kind,
        "metadata": metadata,
        "spec": spec,
        "status": active(),
    }
    assert custom_resource_errors(body) == []
    return body


def active(message: str = "", status: str = "True") -> Object:
    condition = {"type": "Active", "status": status, "message": message, "reason": "Ready"}
    return {"conditions": [{**condition, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}


KFP_DEFAULTS = """
spec:
  templateDefaults:
    retryStrategy:
      limit: '2'
      retryPolicy: OnError
"""


def healthy() -> dict[str, Object]:
    """Return a cluster in which the 7B preset can run."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default-editor"}}
    space: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "vlm-pipelines"}}
    space["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": "baseline"}
    storage = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "shared"},
        "provisioner": "nfs.csi.k8s.io",
    }
    covered = ["cpu", "memory", "nvidia.com/gpu"]
    flavor = {"name": "vlm-gpu", "resources": [{"name": name, "nominalQuota": "16"} for name in covered]}
    group = {"coveredResources": covered, "flavors": [flavor]}
    running = [
        deployment("training-operator", "ghcr.io/kubeflow/training-v1/training-operator:v1.9.2"),
        deployment("ml-pipeline", "ghcr.io/kubeflow/kfp-api-server:2.17.0"),
        deployment("kueue-controller-manager", "registry.k8s.io/kueue/kueue:v0.17.0"),
    ]
    found: dict[str, Object] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.1"},
        f"{CORE}/nodes": {"items": [node("gpu-0"), node("gpu-1"), node("cpu-0", gpus=0)]},
        LEASES: {"items": [lease("gpu-0"), lease("gpu-1"), lease("cpu-0")]},
        "/apis/apps/v1/deployments": {"items": running},
        "/apis/kubeflow.org/v1": resources("pytorchjobs", "pytorchjobs/status", "mpijobs"),
        KUEUE: resources("localqueues", "clusterqueues", "workloads"),
        f"{KUEUE}/namespaces/vlm-pipelines/localqueues/vlm": kueue("LocalQueue", {"clusterQueue": "vlm"}),
        f"{KUEUE}/clusterqueues/vlm": kueue("ClusterQueue", {"resourceGroups": [group]}),
        KUEUE_CONFIG: kueue_config("integrations: {frameworks: [batch/job, kubeflow.org/pytorchjob]}"),
        ARGO: argo(KFP_DEFAULTS),
        NAMESPACED: space,
        f"{NAMESPACED}/serviceaccounts/default-editor": account,
        f"{NAMESPACED}/persistentvolumeclaims/vlm-workspace": claim(),
        "/apis/storage.k8s.io/v1/storageclasses/shared": storage,
    }
    for path in (
        NAMESPACED,
        ARGO,
        f"{NAMESPACED}/serviceaccounts/default-editor",
        "/apis/storage.k8s.io/v1/storageclasses/shared",
    ):
        check_core(found[path])
    check_core(found[f"{NAMESPACED}/persistentvolumeclaims/vlm-workspace"])
    return found
