"""Tests meet nothing of the user who runs them."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kubeconfig import write_kubeconfig
from tests.support.kubernetes_server import KubernetesServer
from tests.support.paths import ROOT

USERS = {
    "AWS_PROFILE": "work",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "HF_TOKEN": "hf_secret",
    "HF_HOME": "/nowhere",
    "KF_PIPELINES_ENDPOINT": "http://127.0.0.1:9",
    "KUBERNETES_SERVICE_HOST": "127.0.0.1",
    "https_proxy": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "VLM_PRESET": "mistral-clip-7b",
}


def test_home_is_not_the_users() -> None:
    assert Path.home() != Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert list(Path.home().glob(".kube")) == []


@pytest.mark.parametrize("place", ["home", "variable"])
def test_the_users_cluster_and_services_are_not_asked(place: str, tmp_path: Path) -> None:
    """The test of a missing cluster, run by a user who has one."""
    server = KubernetesServer()
    home = tmp_path / "home"
    (home / ".kube").mkdir(parents=True)
    kubeconfig = home / ".kube" / "config" if place == "home" else tmp_path / "kubeconfig"
    write_kubeconfig(kubeconfig, server.url)
    environment = {**os.environ, **USERS, "HOME": str(home), "KUBECONFIG": str(kubeconfig)}
    if place == "home":
        del environment["KUBECONFIG"]
    try:
        result = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                "tests/unit/launch/test_cluster.py::test_no_cluster_is_a_clear_error",
            ],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        server.close()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout
    assert server.requests == []
