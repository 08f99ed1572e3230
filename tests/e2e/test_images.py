"""The images as they were built: what is in them, and the DAG run in them. `make test-images` builds them and runs this."""

import json
import os
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from components.runs.find import Places, find_run
from tests.support.small_chain import SMALL

CPU_IMAGE = os.environ.get("VLM_TEST_CPU_IMAGE", "")
GPU_IMAGE = os.environ.get("VLM_TEST_GPU_IMAGE", "")
NO_IMAGE = "{} names no image: run `make test-images`"
IMAGES = [
    pytest.param(
        image, title, id=kind, marks=pytest.mark.skipif(not image, reason=NO_IMAGE.format(f"VLM_TEST_{kind}_IMAGE"))
    )
    for kind, image, title in (
        ("CPU", CPU_IMAGE, "vlm-pipelines (CPU)"),
        ("GPU", GPU_IMAGE, "vlm-pipelines (GPU)"),
    )
]
TESTS = Path(__file__).resolve().parents[1]
# Without GPUs every stage runs in the image that the CPU stages have.
SMALL_RUN = [
    *SMALL,
    "pretrain.recipe.iterations=8",
    "pretrain.recipe.save_interval=4",
    "sft.recipe.iterations=4",
]
needs_cpu_image = pytest.mark.skipif(not CPU_IMAGE, reason=NO_IMAGE.format("VLM_TEST_CPU_IMAGE"))
needs_gpu_image = pytest.mark.skipif(not GPU_IMAGE, reason=NO_IMAGE.format("VLM_TEST_GPU_IMAGE"))


def _inside(image: str, *command: str, volumes: dict[str, dict[str, str]] | None = None) -> str:
    """Run a command in an image without network, rights or a root file system that can be written."""
    client = docker.from_env()
    try:
        output: bytes = client.containers.run(
            image,
            list(command),
            remove=True,
            network_mode="none",
            read_only=True,
            tmpfs={"/tmp": ""},
            cap_drop=["ALL"],
            volumes=volumes or {},
        )
    finally:
        client.close()
    return output.decode()


def _run(image: str, workspace: Path, *more: str) -> subprocess.CompletedProcess[str]:
    overrides = [*SMALL_RUN, f"cluster.cpu_image={image}", *more]
    options = [argument for override in overrides for argument in ("--set", override)]
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


@pytest.mark.parametrize(("image", "title"), IMAGES)
def test_it_says_what_it_is(image: str, title: str) -> None:
    client = docker.from_env()
    config = client.images.get(image).attrs["Config"]
    client.close()
    assert config["User"] == "10001"
    assert config["Labels"]["org.opencontainers.image.title"] == title
    assert config["Labels"]["org.opencontainers.image.version"]
    assert config["Healthcheck"]["Test"] == ["CMD", "vlm", "doctor", "--workspace", "/tmp"]
    assert not [pair for pair in config["Env"] if "TOKEN" in pair or "SECRET" in pair or "PASSWORD" in pair]


@pytest.mark.parametrize(("image", "title"), IMAGES)
def test_it_works_without_network_rights_and_a_writable_root(image: str, title: str) -> None:
    assert _inside(image, "id", "-u").strip() == "10001"
    assert "The laptop preset runs here" in _inside(image, "vlm", "doctor", "--workspace", "/tmp")


@needs_cpu_image
def test_no_compiler_and_no_tests_came_along() -> None:
    listing = "import shutil, importlib.util; print(shutil.which('gcc'), importlib.util.find_spec('tests'))"
    assert _inside(CPU_IMAGE, "python", "-c", listing).split() == ["None", "None"]


@needs_gpu_image
def test_cuda_and_its_headers_are_those_that_pytorch_was_built_for() -> None:
    """Transformer Engine compiles kernels against the headers when a step first needs them."""
    script = """
import os, re, torch
from pathlib import Path
header = (Path(os.environ["NVTE_CUDA_INCLUDE_DIR"]) / "cuda.h").read_text()
print(torch.version.cuda, re.search(r"#define CUDA_VERSION (\\d+)", header)[1], torch.cuda.nccl.version() >= (2, 20))
"""
    cuda, header, nccl = _inside(GPU_IMAGE, "python", "-c", script).split()
    assert header == f"{cuda.split('.')[0]}{int(cuda.split('.')[1]):02d}0"
    assert nccl == "True"


@needs_gpu_image
def test_weights_of_plain_layers_fill_transformer_engines() -> None:
    """One checkpoint serves both; the laptop's and the conversion's are written by plain layers."""
    output = _inside(
        GPU_IMAGE,
        "env",
        "PYTHONPATH=/",
        "python",
        "-m",
        "tests.e2e.engine_layers",
        volumes={str(TESTS): {"bind": "/tests", "mode": "ro"}},
    )
    told = json.loads(output.splitlines()[-1])
    assert told["engine_modules"] > 0
    assert told["unequal"] == []
    assert told["parameters"] > 20


@pytest.mark.parametrize(("image", "title"), IMAGES)
def test_the_dag_runs_in_it(image: str, title: str, tmp_path: Path) -> None:
    result = _run(image, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    run = find_run("", Places(tmp_path)).here()
    assert {row.state for row in run.stages(over=True)} == {"done"}
    (scores,) = tmp_path.glob("evaluate/captioning/*/scores.json")
    assert json.loads(scores.read_text())["n_scored"] == 20


@needs_cpu_image
def test_a_failing_stage_fails_the_run(tmp_path: Path) -> None:
    result = _run(CPU_IMAGE, tmp_path, "data.source=file:///nothing")
    assert result.returncode == 1
    assert "/nothing" in result.stderr
