"""Installs this project into a virtual environment, as `make install` does. Any Python from 3.8 on can run it.

It finds a Python that fits, says what will be fetched, takes the CPU build of PyTorch where there is no NVIDIA driver, and goes on with
an installation that was cut off.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
FITTING = ((3, 11), (3, 12))  # as requires-python in pyproject.toml
PROBE_TIMEOUT_S = 5.0

# In GB, measured on Linux (x86-64) with the versions of constraints.txt and an empty package cache (tests/benchmarks/RESULTS.md).
CPU_SIZE = (0.8, 2.9)
CUDA_SIZE = (3.3, 7.0)
DRIVER_FILES = ("/proc/driver/nvidia/version", "/usr/lib/wsl/lib/nvidia-smi")


class Refusal(Exception):
    """Why nothing can be installed, and what to do: one line."""


def main() -> int:
    """Install, and return the exit status."""
    parser = argparse.ArgumentParser(description="Install this project into a virtual environment.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="the environment (default: .venv)")
    parser.add_argument("--python", default="", help="the Python to make it with (default: one that is found)")
    parser.add_argument(
        "--pip-args", default="", help="options for pip; then pip is taken, and nothing is chosen for it"
    )
    options = parser.parse_args()
    try:
        install(options.venv, options.python, shlex.split(options.pip_args))
    except Refusal as refusal:
        print(f"ERROR: {refusal}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(
            f"ERROR: {Path(error.cmd[0]).name} ended with status {error.returncode}; what it says stands above. "
            "Run this again to go on: what is installed stays.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: run this again to go on; what is installed stays", file=sys.stderr)
        return 130
    return 0


def install(venv: Path, asked: str, pip_args: list[str]) -> None:
    """Make the environment where it is not whole, and install what is missing.

    Args:
        venv: Folder of the environment.
        asked: The Python to make it with; empty for one that is found.
        pip_args: Options for pip.

    Raises:
        Refusal: No Python fits, or the disk is too small.
        CalledProcessError: A command failed, and has said why.
    """
    began = time.monotonic()
    uv = find_uv(venv)
    python = str(venv / "bin" / "python")
    if version_of(python) not in FITTING:
        base = find_python(asked, bool(uv))
        if venv.is_dir():
            print(f"{venv} has no Python that fits: it is made anew")
        make_environment(venv, base, uv)
    remove_torn(venv)
    if uv and (why := reason_for_pip(python, pip_args)):
        print(f"pip installs, though uv is here: {why}")
        uv = ""
    present = len(list(venv.glob("lib/python*/site-packages/*.dist-info")))
    has_torch = any(venv.glob("lib/python*/site-packages/torch-*.dist-info"))
    index, said, (fetched, disk) = torch_build(pip_args)
    name = "uv" if uv else "pip"
    print(f"installing into {venv} with {name} (Python {'.'.join(map(str, version_of(python)))})")
    if has_torch:
        print(f"going on: {present} packages are there")
    else:
        print(f"torch: {said}")
        print(
            f"at most {fetched:.1f} GB are fetched (less what {name} has in its cache), and {disk:.1f} GB of disk filled"
        )
        require_space(venv, disk)
    sys.stdout.flush()
    command = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    command += [*pip_args, "--constraint", str(ROOT / "constraints.txt")]
    # torch first, and its index for it alone: what is built against it finds it, and all else comes from where it always does.
    extra = ["--extra-index-url", index, *(["--index-strategy", "unsafe-best-match"] if uv else [])] if index else []
    run([*command, *extra, "torch"])
    run([*command, "--editable", f"{ROOT}[dev]"])
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    print(f"installed in {minutes}:{seconds:02}")


def version_of(python: str) -> tuple[int, ...]:
    """Return the major and the minor version of a Python; nothing for what is none, or does not start."""
    try:
        said = subprocess.run(
            [python, "-c", "import sys; print(*sys.version_info[:2])"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        ).stdout
        return tuple(int(number) for number in said.split())
    except (OSError, subprocess.CalledProcessError, ValueError):
        return ()


def find_python(asked: str, uv: bool) -> str:
    """Return a Python to make the environment with; empty where uv has to fetch one.

    Args:
        asked: The one that was named; empty for any.
        uv: uv is here, which fetches a Python by itself.

    Raises:
        Refusal: None fits; says what is here and how to get one.
    """
    # python3.11 may be there and not start: pyenv has such stubs.
    names = [asked] if asked else ["python3.11", "python3.12", "python3", "python", sys.executable]
    seen = {name: version_of(name) for name in names}
    fitting = next((name for name, version in seen.items() if version in FITTING), "")
    if fitting or (uv and not asked):
        return fitting
    found = " and ".join(sorted({".".join(map(str, version)) for version in seen.values() if version}))
    raise Refusal(
        f"Python 3.11 or 3.12 is needed, and {asked or 'here'} is {found or 'none that starts'}. Install one (apt install "
        "python3.11-venv, dnf install python3.11, brew install python@3.11), or uv (https://docs.astral.sh/uv), which fetches one "
        "by itself, and run this again; or name one: PYTHON=/path/to/python3.11"
    )


def find_uv(venv: Path) -> str:
    """Return uv's path: the environment's own, else the one on PATH; empty for none."""
    own = venv / "bin" / "uv"
    return str(own) if own.is_file() else shutil.which("uv") or ""


def make_environment(venv: Path, base: str, uv: str) -> None:
    """Make an empty environment that has pip, in place of what is there."""
    if uv:
        # Without a Python that fits, uv fetches one.
        run([uv, "venv", "--quiet", "--clear", "--seed", "--python", base or "3.11", str(venv)])
    else:
        run([base, "-m", "venv", "--clear", str(venv)])


def remove_torn(venv: Path) -> None:
    """Remove the marks of packages whose installation was cut off: pip would take them for installed.

    A package's list of files is written last.
    """
    for mark in venv.glob("lib/python*/site-packages/*.dist-info"):
        if not (mark / "RECORD").is_file():
            print(f"{mark.name} was cut off: it is installed anew")
            shutil.rmtree(mark)


def reason_for_pip(python: str, pip_args: list[str]) -> str:
    """Return why uv, which does not read pip's configuration, must not be taken; empty where it may."""
    if pip_args:
        return "PIP_ARGS are for it"
    if any(name.startswith("UV_") and ("INDEX" in name or "FIND_LINKS" in name) for name in os.environ):
        return ""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, check=True).stdout.decode()
    own = [line.partition("=")[0] for line in listed.splitlines() if "index" in line or "find-links" in line]
    return f"it is configured with where packages are ({', '.join(own)}), which uv does not read" if own else ""


def torch_build(pip_args: list[str]) -> tuple[str, str, tuple[float, float]]:
    """Choose a build of PyTorch.

    Returns:
        An index beside pip's own, empty for none; what is said of the choice; GB to fetch and to keep of all packages.
    """
    if pip_args:
        return "", "as PIP_ARGS say", CUDA_SIZE
    if platform.system() != "Linux":
        return "", "what pip gives, which is the CPU build on this system", CPU_SIZE
    if shutil.which("nvidia-smi") or any(Path(name).exists() for name in DRIVER_FILES):
        return "", "what pip gives: this machine has an NVIDIA driver", CUDA_SIZE
    problem = unreachable(f"{CPU_INDEX}/torch/")
    if problem:
        return (
            "",
            f"what pip gives, which may be the CUDA build: no NVIDIA driver here, but the CPU builds' index does not answer ({problem})",
            CUDA_SIZE,
        )
    return CPU_INDEX, f"the CPU build from {CPU_INDEX}: no NVIDIA driver here", CPU_SIZE


def unreachable(url: str) -> str:
    """Return why an address can't be read within seconds; empty where it can."""
    try:
        with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S):
            return ""
    except (OSError, ValueError) as error:
        return f"{CPU_INDEX}: {getattr(error, 'reason', '') or error}"


def require_space(venv: Path, disk_gb: float) -> None:
    """Refuse a disk that is too small, with what a part of the installation already fills counted in."""
    filled = sum(path.lstat().st_size for path in venv.rglob("*") if path.is_file())
    free = shutil.disk_usage(venv).free
    if free + filled < disk_gb * 1e9:
        raise Refusal(
            f"{venv} needs {disk_gb:.1f} GB, and its disk has {free / 1e9:.1f} GB free. Make room, or take another folder: VENV=..."
        )


def run(command: list[str]) -> None:
    """Run a command that shows its output."""
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
