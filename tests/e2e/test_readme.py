"""What the README tells a newcomer to type exists and works."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from components.context import RunContext
from components.download.stage import run_download_dataset
from pipelines.cli import main
from pipelines.cli.parser import build_parser
from pipelines.preset_files import load_preset
from tests.support.packages import read_package
from tests.support.paths import ROOT
from tests.support.readme import README, blocks, console_commands, section

BIN = Path(sys.executable).parent


def _vlm_commands() -> list[str]:
    return [command for command in console_commands(README) if command.startswith(".venv/bin/vlm ")]


def test_set_up_commands_are_the_makefiles_and_ci_runs_the_test_command() -> None:
    assert console_commands(README)[:2] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in ("demo", "test"))
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", _vlm_commands())
def test_vlm_commands_are_understood(command: str) -> None:
    assert build_parser().parse_args(shlex.split(command)[1:])


def test_own_data_is_read_as_shown(tmp_path: Path) -> None:
    """Entries like the README's, with their pictures."""
    (shown,) = json.loads(blocks(section("Your own data"), "json")[0])
    colours = ["red", "green", "blue", "black", "white", "grey", "brown", "orange", "pink", "purple", "silver", "gold"]
    entries = [
        {**shown, "id": colour, "image": f"{colour}.jpg", "conversations": _in_colour(shown["conversations"], colour)}
        for colour in colours
    ]
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "data.json").write_text(json.dumps(entries))
    for colour in colours:
        Image.new("RGB", (40, 30), colour).save(tmp_path / "data" / "images" / f"{colour}.jpg")
    (command,) = (line for line in console_commands(section("Your own data")) if "/path/to/folder" in line)
    override = shlex.split(command.replace("/path/to/folder", str(tmp_path / "data")))[-1]
    config = load_preset("laptop", [override, "data.folder.held_out_pictures=4"])
    raw = run_download_dataset(RunContext(run_id="t", run_name="t", workspace=tmp_path), config.data).folder
    kept = json.loads((raw / "pretrain.json").read_text())
    assert len(kept) == 8
    for entry in kept:
        asked, answered = _in_colour(shown["conversations"], entry["id"])
        assert entry["conversations"][0]["value"].split() == ["<image>", *asked["value"].replace("<image>", "").split()]
        assert entry["conversations"][1] == answered


def _in_colour(turns: list[dict[str, str]], colour: str) -> list[dict[str, str]]:
    return [{**turn, "value": turn["value"].replace("red", colour)} for turn in turns]


@pytest.mark.usefixtures("shallow_stacks")
def test_both_ways_of_compiling_give_the_same_pipeline(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "vlm.yaml", tmp_path / "kfp.yaml"
    assert main(["compile", "--preset", "laptop", "-o", str(ours)]) == 0
    source = "pipelines/vlm_training.py"
    subprocess.run(
        [BIN / "kfp", "dsl", "compile", "--py", source, "--output", theirs], check=True, cwd=ROOT, timeout=120
    )
    assert read_package(ours) == read_package(theirs)


def test_doctor_finds_this_machine_fit() -> None:
    result = subprocess.run([BIN / "vlm", "doctor"], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "torch" in result.stdout
