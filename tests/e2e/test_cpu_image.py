"""The CPU image as it was built: what is in it, and the DAG run in it. `make test-images` builds it and runs this."""

import json
import os
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from pipelines.run_folder import find_run
from tests.integration.conftest import SMALL

IMAGE = os.environ.get("VLM_TEST_IMAGE", "")
pytestmark = pytest.mark.skipif(not IMAGE, reason="VLM_TEST_IMAGE names no image: run `make test-images`")
SMALL_RUN = [
    *SMALL,
    f"cluster.cpu_image={IMAGE}",
    f"cluster.gpu_image={IMAGE}",
    "pretrain.recipe.iterations=8",
    "pretrain.recipe.save_interval=4",
    "sft.recipe.iterations=4",
]


def _inside(*command: str) -> str:
    """Run a command in the image with nothing but what it brings."""
    client = docker.from_env()
    try:
        output: bytes = client.containers.run(
            IMAGE, list(command), remove=True, network_mode="none", read_only=True, tmpfs={"/tmp": ""}, cap_drop=["ALL"]
        )
    finally:
        client.close()
    return output.decode()


def _run(workspace: Path, *more: str) -> subprocess.CompletedProcess[str]:
    options = [argument for override in [*SMALL_RUN, *more] for argument in ("--set", override)]
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "run",
        "--runner",
        "docker",
        "--workspace",
        str(workspace),
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)


def test_it_says_what_it_is() -> None:
    client = docker.from_env()
    config = client.images.get(IMAGE).attrs["Config"]
    client.close()
    assert config["User"] == "10001"
    assert config["Labels"]["org.opencontainers.image.title"] == "vlm-pipelines (CPU)"
    assert config["Labels"]["org.opencontainers.image.version"]
    assert config["Healthcheck"]["Test"] == ["CMD", "vlm", "doctor", "--workspace", "/tmp"]
    assert not [pair for pair in config["Env"] if "TOKEN" in pair or "SECRET" in pair or "PASSWORD" in pair]


def test_it_works_without_network_rights_and_a_writable_root() -> None:
    assert _inside("id", "-u").strip() == "10001"
    assert "ERROR" not in _inside("vlm", "doctor", "--workspace", "/tmp")


def test_no_compiler_and_no_tests_came_along() -> None:
    listing = "import shutil, importlib.util; print(shutil.which('gcc'), importlib.util.find_spec('tests'))"
    assert _inside("python", "-c", listing).split() == ["None", "None"]


def test_the_dag_runs_in_it(tmp_path: Path) -> None:
    result = _run(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    run = find_run(tmp_path)
    assert {row.state for row in run.stages(over=True)} == {"done"}
    (scores,) = tmp_path.glob("evaluate/captioning/*/scores.json")
    assert json.loads(scores.read_text())["n_scored"] == 20


def test_a_failing_stage_fails_the_run(tmp_path: Path) -> None:
    result = _run(tmp_path, "data.source=file:///nothing")
    assert result.returncode == 1
    assert "/nothing" in result.stderr
