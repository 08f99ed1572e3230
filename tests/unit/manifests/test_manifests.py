"""The cluster's objects: every overlay builds, every object is valid, and they fit each other and the launcher."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.launch import trainjob
from components.launch.config import JobConfig
from components.launch.runtime import runtime_problems
from tests.support.kubernetes_schemas import check_core, custom_resource_errors, has_schema
from tests.support.kubernetes_server import KubernetesServer
from tests.support.launching import Launcher, finish, make_job, start_pods
from tests.support.paths import ROOT
from tests.support.s3_server import s3_server
from tests.support.waiting import wait_for

MANIFESTS = ROOT / "manifests"
BUILT = ["base", "overlays/eks", "overlays/gke", "overlays/gpu-pool", "overlays/kueue", "overlays/laptop"]
# Made by hand (manifests/README.md), or by Kubeflow.
GIVEN = {("Secret", "vlm-postgres"), ("Secret", "vlm-s3")}
Object = dict[str, Any]
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def build(overlay: str) -> list[Object]:
    result = subprocess.run(
        ["kubectl", "kustomize", str(MANIFESTS / overlay)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


def check(body: Object) -> None:
    if has_schema(body):
        assert custom_resource_errors(body) == []
    elif not body["apiVersion"].startswith("kustomize.config.k8s.io/"):
        check_core(body)


def pod_specs(objects: list[Object]) -> list[Object]:
    return [body["spec"]["template"]["spec"] for body in objects if "template" in body.get("spec", {})]


def test_every_file_holds_valid_objects() -> None:
    files = sorted(MANIFESTS.rglob("*.yaml"))
    assert len(files) > 15
    for path in files:
        for body in yaml.safe_load_all(path.read_text()):
            check(body)


def test_a_wrong_field_is_found() -> None:
    body = next(yaml.safe_load_all((MANIFESTS / "base" / "workspace.yaml").read_text()))
    body["spec"]["accesModes"] = body["spec"].pop("accessModes")
    with pytest.raises(Exception, match="accesModes"):
        check(body)


def test_every_kustomization_is_tested() -> None:
    found = {str(path.parent.relative_to(MANIFESTS)) for path in MANIFESTS.rglob("kustomization.yaml")}
    assert {path for path in found if not path.startswith("components/")} == set(BUILT)


@needs_kubectl
@pytest.mark.parametrize("overlay", BUILT)
def test_overlay_builds_into_valid_objects_that_fit(overlay: str) -> None:
    objects = build(overlay)
    for body in objects:
        check(body)
    cluster_wide = {"Namespace", "ResourceFlavor", "ClusterQueue", "WorkloadPriorityClass"}
    namespaces = {body["metadata"].get("namespace") for body in objects if body["kind"] not in cluster_wide}
    assert namespaces == {"kubeflow" if overlay == "overlays/laptop" else "vlm-pipelines"}
    there = {(body["kind"], body["metadata"]["name"]) for body in objects} | GIVEN
    for spec in pod_specs(objects):
        assert ("ServiceAccount", spec["serviceAccountName"]) in there
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert re.search(r":\d", container["image"]), "images are pinned"
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"]["requests"]
            for variable in container.get("env", []):
                for kind, reference in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
                    if reference in variable.get("valueFrom", {}):
                        assert (kind, variable["valueFrom"][reference]["name"]) in there
    assert "Secret" not in {body["kind"] for body in objects}


@needs_kubectl
def test_services_find_their_pods() -> None:
    objects = build("overlays/laptop")
    labels = [body["spec"]["template"]["metadata"]["labels"] for body in objects if "template" in body.get("spec", {})]
    selectors = [body["spec"]["selector"] for body in objects if body["kind"] == "Service"]
    assert len(selectors) == 3
    for selector in selectors:
        assert any(selector.items() <= pod.items() for pod in labels)


@needs_kubectl
@pytest.mark.parametrize("overlay", ["overlays/gke", "overlays/eks"])
def test_provider_overlays_select_their_own_nodes(overlay: str) -> None:
    objects = {body["kind"]: body for body in build(overlay)}
    labels = objects["ResourceFlavor"]["spec"]["nodeLabels"]
    assert labels == objects["DaemonSet"]["spec"]["template"]["spec"]["nodeSelector"]
    assert "nvidia.com/gpu.present" not in labels
    group = objects["ClusterQueue"]["spec"]["resourceGroups"][0]
    assert [one["name"] for one in group["flavors"][0]["resources"]] == group["coveredResources"]


def test_s3_store_takes_more_buckets_than_one(tmp_path: Path) -> None:
    """The real server with the manifest's flags: a bucket takes seven of its volumes, and eight are its default."""
    objects = yaml.safe_load_all((MANIFESTS / "components" / "s3" / "seaweedfs.yaml").read_text())
    (store,) = (body for body in objects if body["kind"] == "StatefulSet")
    arguments = store["spec"]["template"]["spec"]["containers"][0]["args"]
    flags = [flag for flag in arguments if flag.startswith(("-master.", "-volume."))]
    with s3_server(tmp_path, flags) as server:
        for number in range(5):
            server.client.create_bucket(Bucket=f"bucket-{number}")
            server.client.put_object(Bucket=f"bucket-{number}", Key="key", Body=b"written")
            answer = server.client.get_object(Bucket=f"bucket-{number}", Key="key")
            assert answer["Body"].read() == b"written"


def test_the_runtime_of_trainjobs_leaves_failures_to_the_launcher() -> None:
    runtime, role, binding = yaml.safe_load_all((MANIFESTS / "trainer" / "runtime.yaml").read_text())
    settings = JobConfig()
    assert runtime["metadata"]["name"] == settings.runtime
    assert runtime_problems(runtime, settings.grace_s) == []
    (rule,) = role["rules"]
    assert (rule["resources"], rule["verbs"]) == ([trainjob.RUNTIMES], ["get"])
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_role_allows_exactly_what_the_launcher_asks(tmp_path: Path) -> None:
    """The launcher's requests in a run with waiting, a takeover, logs and a replaced job, against the Role."""
    server = KubernetesServer()
    try:
        first = Launcher(make_job(tmp_path), server.client())
        wait_for(lambda: any(request.endswith("/workloads") for request in server.requests))
        names = start_pods(server)
        second = Launcher(make_job(tmp_path, run_id="run-2"), server.client())
        wait_for(lambda: any(request.startswith("PATCH") for request in server.requests))
        finish(server, names)
        assert (first.result(), second.result()) == (None, None)
        third = Launcher(make_job(tmp_path / "other", queue=""), server.client())
        wait_for(lambda: any(request.endswith("/events") for request in server.requests))
        finish(server, start_pods(server))
        assert third.result() is None
        asked = {_permission(request) for request in server.requests}
    finally:
        server.close()
    role = next(yaml.safe_load_all((MANIFESTS / "base" / "rbac.yaml").read_text()))
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert asked == {permission for permission in allowed if permission[1] != "trainjobs"}
    trainjobs = {verb for _, resource, verb in allowed if resource == "trainjobs"}
    assert trainjobs == {verb for _, resource, verb in allowed if resource == "pytorchjobs"}


def _permission(request: str) -> tuple[str, str, str]:
    method, path = request.split()
    match = re.fullmatch(r"/apis?/(?:([^/]*\.[^/]+)/)?v\w+/namespaces/[^/]+/(\w+)(?:/[^/]+(?:/(log))?)?", path)
    assert match, path
    group, resource, log = match.groups()
    if log:
        return group or "", f"{resource}/log", "get"
    named = path.split("/namespaces/")[1].count("/") > 1
    verb = {"GET": "get" if named else "list", "POST": "create", "PATCH": "patch", "DELETE": "delete"}[method]
    return group or "", resource, verb
