"""What the README tells a newcomer to type exists and works."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.cli.parser import build_parser
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def _console_commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [line.removeprefix("$ ").partition("  #")[0].strip() for line in lines]


def _vlm_commands() -> list[str]:
    return [command for command in _console_commands() if command.startswith(".venv/bin/vlm ")]


def test_set_up_commands_are_the_makefiles_and_ci_runs_the_test_command() -> None:
    assert _console_commands()[:2] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in ("demo", "test"))
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", _vlm_commands())
def test_vlm_commands_are_understood(command: str) -> None:
    assert build_parser().parse_args(shlex.split(command)[1:])


def test_local_links_exist() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_both_ways_of_compiling_give_the_same_pipeline(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "vlm.yaml", tmp_path / "kfp.yaml"
    subprocess.run([BIN / "vlm", "compile", "--preset", "laptop", "-o", ours], check=True, cwd=ROOT, timeout=120)
    source = "pipelines/vlm_training.py"
    subprocess.run(
        [BIN / "kfp", "dsl", "compile", "--py", source, "--output", theirs], check=True, cwd=ROOT, timeout=120
    )
    assert list(yaml.safe_load_all(ours.read_text())) == list(yaml.safe_load_all(theirs.read_text()))


def test_doctor_finds_this_machine_fit() -> None:
    result = subprocess.run([BIN / "vlm", "doctor"], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "torch" in result.stdout
