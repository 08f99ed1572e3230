"""The pure parts of the trial on a cluster, which itself needs one."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines.cli.parser import build_parser
from pipelines.cluster_run import _check
from pipelines.doctor.finding import Mark
from pipelines.preset_files import load_preset
from tests.support import cluster_trial
from tests.support.cluster_objects import deployment
from tests.support.cluster_trial import (
    Surroundings,
    Trial,
    pod_security_warnings,
    surroundings,
    trial_settings,
    wait_until,
    write_overlay,
)


def test_surroundings_are_told_from_images() -> None:
    found = surroundings(
        [
            deployment("ml-pipeline", "ghcr.io/kubeflow/kfp-api-server:2.17.0"),
            deployment("training-operator", "registry.example:5000/kubeflow/training-v1/training-operator@sha256:0123"),
            deployment(
                "kubeflow-trainer-controller-manager", "ghcr.io/kubeflow/trainer/trainer-controller-manager:v2.3.0"
            ),
            deployment("mine", "training-operator-notes:1"),
        ]
    )
    assert found == Surroundings("2.17.0", ("pytorchjob", "trainjob"))
    assert (
        surroundings([deployment("mine", "nginx")]).words == "Kubeflow Pipelines (none); operators of no training jobs"
    )


@pytest.mark.parametrize("backend", ["pytorchjob", "trainjob"])
def test_settings_are_valid_and_train_on_two_nodes(backend: str) -> None:
    words = trial_settings("registry.example/vlm/cpu:7", backend, "name=a", "pretrain.recipe.iterations=100000")
    options = build_parser().parse_args(["submit", "--endpoint", "http://localhost", *words])
    config = load_preset(options.preset, options.overrides)
    _check(config)
    assert (config.pretrain.launch.world_size, config.sft.launch.nodes, config.name) == (2, 2, "a")


def test_steps_are_told_with_what_ended_them() -> None:
    trial = Trial()
    with trial.step("submit") as said:
        said.append("run 1")
    with pytest.raises(AssertionError), trial.step("kill"):
        raise AssertionError("no launcher runs")
    assert [(row.subject, row.mark) for row in trial.findings] == [("submit", Mark.GOOD), ("kill", Mark.BAD)]
    assert trial.findings[0].found == "0 s; run 1"
    assert trial.findings[1].found == "0 s; no launcher runs"


def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_trial, "_POLL_S", 0.0)
    looks = iter([None, "", "there"])
    assert wait_until("it", lambda: next(looks), 60) == "there"
    with pytest.raises(TimeoutError, match="it: not within 0 s"):
        wait_until("it", lambda: None, 0)


def test_warnings_of_pod_security_are_ours_alone() -> None:
    said = """Warning: existing pods in namespace "kubeflow" violate the new PodSecurity enforce level "restricted:latest"
Warning: mlflow-7d9f (and 1 other pod): allowPrivilegeEscalation != false, unrestricted capabilities
Warning: minio-55f: runAsNonRoot != true
"""
    assert pod_security_warnings(said) == [
        "mlflow-7d9f (and 1 other pod): allowPrivilegeEscalation != false, unrestricted capabilities"
    ]
    assert pod_security_warnings("namespace/kubeflow labeled (server dry run)\n") == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_overlay_has_the_clusters_image(tmp_path: Path) -> None:
    overlay = write_overlay(tmp_path, "registry.example:5000/vlm/cpu:7")
    built = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=True).stdout
    (server,) = (
        body
        for body in yaml.safe_load_all(built)
        if (body["kind"], body["metadata"]["name"]) == ("Deployment", "mlflow")
    )
    assert server["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example:5000/vlm/cpu:7"
