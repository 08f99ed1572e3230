"""Every pod that this project makes meets the Pod Security Standard `restricted`."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.compile import compile_pipeline
from pipelines.job_preview import job_manifest
from pipelines.preset_files import load_preset, preset_names
from tests.support.kubernetes_schemas import check_pod
from tests.support.packages import read_package
from tests.support.paths import ROOT
from tests.support.pod_security import pod_specs, violations

MANIFESTS = ROOT / "manifests"
ON_A_CLUSTER = ["cluster.pvc=vlm-workspace", "workspace=/workspace"]
GOOD: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {"name": "main", "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
    ],
    "volumes": [{"name": "work", "emptyDir": {}}],
}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["hostNetwork"], True, "hostNetwork is true"),
        (["volumes", 0, "hostPath"], {"path": "/"}, "volume work is of kind hostPath"),
        (["securityContext", "runAsNonRoot"], False, "main does not set runAsNonRoot"),
        (["securityContext", "runAsUser"], 0, "pod runs as root"),
        (["securityContext", "seccompProfile"], None, "main has no seccompProfile"),
        (["securityContext", "sysctls"], [{"name": "kernel.sem"}], "sysctl kernel.sem"),
        (["containers", 0, "securityContext"], {}, "main does not drop ALL"),
        (["containers", 0, "securityContext", "allowPrivilegeEscalation"], True, "allowPrivilegeEscalation"),
        (["containers", 0, "securityContext", "capabilities", "add"], ["IPC_LOCK"], "adds the capability IPC_LOCK"),
        (["containers", 0, "securityContext", "runAsNonRoot"], False, "main does not set runAsNonRoot"),
        (["containers", 0, "ports"], [{"hostPort": 80}], "host's port 80"),
        (["containers", 0, "livenessProbe"], {"httpGet": {"host": "169.254.169.254"}}, "probes another host"),
        (["initContainers"], [{"name": "init"}], "init does not drop ALL"),
    ],
)
def test_what_restricted_refuses_is_found(path: list[Any], value: Any, said: str) -> None:
    spec = deepcopy(GOOD)
    assert violations(spec) == []
    *parents, last = path
    place: Any = spec
    for name in parents:
        place = place[name]
    place[last] = value
    assert any(said in found for found in violations(spec)), violations(spec)


def test_pods_of_the_manifests_are_restricted() -> None:
    found = 0
    for path in sorted(MANIFESTS.rglob("*.yaml")):
        for body in yaml.safe_load_all(path.read_text()):
            if body["kind"] == "ClusterTrainingRuntime":
                continue  # half a pod: a TrainJob's patches make it whole
            for spec in pod_specs(body):
                found += 1
                assert violations(spec) == [], path
    assert found >= 5


@pytest.mark.parametrize("backend", ["pytorchjob", "trainjob"])
@pytest.mark.parametrize("preset", preset_names())
def test_pods_of_training_jobs_are_restricted(preset: str, backend: str) -> None:
    overrides = [
        *ON_A_CLUSTER,
        f"pretrain.launch.backend={backend}",
        "pretrain.launch.nodes=2",
        "cluster.job.ttl_s=null",
    ]
    (body,) = yaml.safe_load_all(job_manifest(load_preset(preset, overrides), "pretrain"))
    specs = list(pod_specs(body))
    assert specs
    for spec in specs:
        assert violations(spec) == []


def test_the_operators_init_container_can_be_restricted() -> None:
    (body,) = yaml.safe_load_all((MANIFESTS / "tools" / "init-container.yaml").read_text())
    text = body["data"]["initContainer.yaml"]
    for name, value in (("InitContainerImage", "alpine:3.10"), ("MaxTries", "100"), ("MasterAddr", "vlm-master-0")):
        assert f"{{{{.{name}}}}}" in text
        text = text.replace(f"{{{{.{name}}}}}", value)
    containers = yaml.safe_load(text)
    check_pod({}, {"initContainers": containers, "containers": [{"name": "pytorch"}]})
    assert violations({**GOOD, "initContainers": containers}) == []


def test_locked_memory_is_the_exception() -> None:
    overrides = [*ON_A_CLUSTER, "pretrain.launch.backend=pytorchjob", "cluster.job.lock_memory=true"]
    (body,) = yaml.safe_load_all(job_manifest(load_preset("laptop", overrides), "pretrain"))
    assert {found for spec in pod_specs(body) for found in violations(spec)} == {"pytorch adds the capability IPC_LOCK"}


@pytest.mark.usefixtures("shallow_stacks")
@pytest.mark.parametrize("preset", preset_names())
def test_pods_of_stages_are_restricted(preset: str, tmp_path: Path) -> None:
    compile_pipeline(load_preset(preset, ON_A_CLUSTER), tmp_path / "p.yaml")
    package, platform = read_package(tmp_path / "p.yaml")
    executors = package["deploymentSpec"]["executors"]
    assert len(executors) > 10
    for name in executors:
        given = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][name]
        assert violations(_stage_pod(given)) == [], name


def _stage_pod(given: dict[str, Any]) -> dict[str, Any]:
    """Return a stage's pod as Kubeflow Pipelines 2.16 and newer makes it.

    Its compiler hardens the container, but leaves who it runs as to the pipeline (backend/src/v2/compiler/argocompiler/
    security_context.go); its driver adds the pipeline's security context and volumes (backend/src/v2/driver/k8s.go).
    """
    hardened = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    asked = {name: int(value) if name != "runAsNonRoot" else value for name, value in given["securityContext"].items()}
    volumes = [{"name": one["constant"], "persistentVolumeClaim": {}} for one in given.get("pvcMount", [])]
    volumes += [{"name": one["volumeName"], "emptyDir": {}} for one in given.get("emptyDirMounts", [])]
    assert set(given) <= {
        "securityContext", "pvcMount", "emptyDirMounts", "secretAsEnv", "nodeSelector", "tolerations", "nodeAffinity",
        "imagePullPolicy", "imagePullSecret", "activeDeadlineSeconds",
    }  # fmt: skip
    return {
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "main", "securityContext": {**hardened, **asked}}],
        "volumes": volumes,
    }
