"""`install.py`: the Python that fits, the build of PyTorch, uv or pip, and going on after a cut."""

import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread

import pytest

import install
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a driver, without uv and without a configured pip; returns the only folder of its PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(install, "DRIVER_FILES", ())
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return programs


def program(folder: Path, name: str, says: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{says}\n")
    (folder / name).chmod(0o755)


def whole_environment(venv: Path) -> Path:
    """Return an environment that runs this Python."""
    (venv / "bin").mkdir(parents=True)
    program(venv / "bin", "python", f'exec {sys.executable} "$@"')
    return venv


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Quiet)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been run."""
    made: list[list[str]] = []
    monkeypatch.setattr(install, "run", made.append)
    return made


def test_versions_are_those_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (low, high), after = install.FITTING[0], install.FITTING[-1][1] + 1
    assert f'requires-python = ">={low}.{high},<3.{after}"' in text


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_a_python_that_does_not_fit_is_one_line_of_what_to_do(
    bare: Path, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(bare, "python3", f"echo {version.replace('.', ' ')}")
    program(bare, "python3.11", "exit 127")  # pyenv's stub of a version that is not chosen
    monkeypatch.setattr(sys, "executable", str(bare / "python3"))
    monkeypatch.setattr(sys, "argv", ["install.py", "--venv", str(tmp_path / "venv")])
    assert install.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ERROR: Python 3.11 or 3.12 is needed, and here is {version}.")
    assert "apt install python3.11-venv" in line
    assert not (tmp_path / "venv").exists()


def test_python_that_was_named_must_fit_itself(bare: Path) -> None:
    program(bare, "python3.11", "echo 3 11")
    program(bare, "python3.13", "echo 3 13")
    with pytest.raises(install.Refusal, match=r"and python3.13 is 3.13\. "):
        install.find_python("python3.13", uv=True)


def test_python_that_fits_is_found_behind_others(bare: Path) -> None:
    program(bare, "python3.11", "exit 127")
    program(bare, "python3.12", "echo 3 12")
    program(bare, "python3", "echo 3 13")
    assert install.find_python("", uv=False) == "python3.12"


def test_uv_fetches_a_python_where_none_fits(
    bare: Path, monkeypatch: pytest.MonkeyPatch, commands: list[list[str]], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert install.find_python("", uv=True) == ""
    install.make_environment(tmp_path, "", "/bin/uv")
    assert commands[0][-3:] == ["--python", "3.11", str(tmp_path)]


def test_makefile_without_any_python_says_so(bare: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [shutil.which("make", path=os.defpath) or "make", "install", f"VENV={tmp_path / 'venv'}", "SHELL=/bin/sh"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert result.returncode
    assert "ERROR: Python 3.11 or 3.12 is needed" in result.stderr + result.stdout


def test_cpu_build_where_there_is_no_driver_and_its_index_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torch").mkdir()
    venv = whole_environment(tmp_path / "venv")
    with serving(tmp_path) as index:
        monkeypatch.setattr(install, "CPU_INDEX", index)
        install.install(venv, "", [])
    first, second = commands
    assert first[-3:] == ["--extra-index-url", index, "torch"]
    assert index not in second, "an index that is for torch must not offer other packages"
    assert second[-2:] == ["--editable", f"{ROOT}[dev]"]
    said = capsys.readouterr().out
    assert f"the CPU build from {index}" in said
    assert f"at most {install.CPU_SIZE[0]:.1f} GB are fetched" in said


def test_an_index_that_does_not_answer_is_said_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "PROBE_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setattr(install, "CPU_INDEX", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        index, said, size = install.torch_build([])
    assert (index, size) == ("", install.CUDA_SIZE)
    assert "does not answer" in said
    assert "timed out" in said


@pytest.mark.parametrize("sign", ["program", "file"])
def test_nothing_is_chosen_where_there_is_a_driver(
    sign: str, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "CPU_INDEX", "http://127.0.0.1:9")
    if sign == "program":
        program(bare, "nvidia-smi", "exit 0")
    else:
        (tmp_path / "version").touch()
        monkeypatch.setattr(install, "DRIVER_FILES", (str(tmp_path / "version"),))
    assert install.torch_build([]) == (
        "",
        "what pip gives: this machine has an NVIDIA driver",
        install.CUDA_SIZE,
    )


def test_pip_args_leave_nothing_to_choose(tmp_path: Path, commands: list[list[str]]) -> None:
    install.install(whole_environment(tmp_path / "venv"), "", ["--index-url", "https://pypi.example/simple"])
    assert all("https://pypi.example/simple" in command for command in commands)
    assert not any("--extra-index-url" in command for command in commands)


@pytest.mark.parametrize("place", ["environment", "path"])
def test_uv_is_taken_where_it_is(
    place: str,
    bare: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    commands: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "torch").mkdir()
    venv = whole_environment(tmp_path / "venv")
    folder = venv / "bin" if place == "environment" else bare
    program(folder, "uv", "exit 0")
    with serving(tmp_path) as index:
        monkeypatch.setattr(install, "CPU_INDEX", index)
        install.install(venv, "", [])
    assert commands[0][:5] == [str(folder / "uv"), "pip", "install", "--python", str(venv / "bin" / "python")]
    # By default uv takes a package from the first index that knows it, in any version.
    assert commands[0][-5:] == ["--extra-index-url", index, "--index-strategy", "unsafe-best-match", "torch"]
    assert f"installing into {venv} with uv" in capsys.readouterr().out


def test_uv_is_not_taken_where_pip_alone_knows_where_packages_are(
    bare: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    commands: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    program(bare, "uv", "exit 0")
    monkeypatch.setattr(install, "CPU_INDEX", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_INDEX_URL", "https://pypi.example/simple")
    venv = whole_environment(tmp_path / "venv")
    install.install(venv, "", [])
    assert commands[0][:4] == [str(venv / "bin" / "python"), "-m", "pip", "install"]
    assert "pip installs, though uv is here: it is configured with where packages are" in capsys.readouterr().out


def test_a_full_disk_is_said_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5e8})())
    with pytest.raises(install.Refusal, match=r"needs 2.0 GB, and its disk has 0.5 GB free"):
        install.require_space(tmp_path, 2.0)


def wheel(folder: Path) -> Path:
    """Write a wheel whose module comes after its metadata."""
    path = folder / "cutoff-1.0-py3-none-any.whl"
    info = "cutoff-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: cutoff\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("cutoff.py", "WHOLE = True\n")
        archive.writestr(f"{info}/RECORD", f"cutoff.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


@pytest.mark.slow
def test_a_package_that_was_cut_off_is_installed_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a real pip: what it leaves when it is killed between a package's metadata and its module."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = str(venv / "bin" / "python")
    installing = [python, "-m", "pip", "install", "--no-index", "--find-links", str(tmp_path), "cutoff"]
    importing = [python, "-c", "import cutoff"]
    wheel(tmp_path)
    install.run(installing)
    (packages,) = venv.glob("lib/python*/site-packages")
    for name in ("cutoff.py", "cutoff-1.0.dist-info/RECORD"):
        (packages / name).unlink()
    install.run(installing)
    assert subprocess.run(importing, check=False, stderr=subprocess.DEVNULL).returncode, "pip takes it for installed"
    install.remove_torn(venv)
    assert "cutoff-1.0.dist-info was cut off" in capsys.readouterr().out
    install.run(installing)
    install.run(importing)
