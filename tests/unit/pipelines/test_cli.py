"""The `vlm` command: what it prints and how it exits."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from components.evaluate.samples import Samples, ShownSample, write_samples
from components.runs.folder import RunFolder, new_run
from components.storage.atomic import write_json
from components.tasks.kind import Answer
from pipelines.cli import main
from pipelines.cli.parser import build_parser
from pipelines.doctor import machine
from pipelines.next_steps import OWN_DATA, next_steps
from pipelines.preset_files import load_preset
from pipelines.summary import print_summary
from tests.support.kubernetes_schemas import custom_resource_errors
from tests.support.paths import ROOT

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run with scores and a report, as the stages leave it."""
    run = new_run(tmp_path, "demo")
    run.update_record(preset="laptop", started="2026-01-01T00:00:00+00:00", state="succeeded", pid=os.getpid())
    run.log.write_text("all output\n")
    write_json(run.path / "context.json", {"tracking_uri": "sqlite:////w/mlflow.db", "mlflow_run_id": "1"})
    for stage, key in (("evaluate/captioning", "aa"), ("report", "bb"), ("pretrain", "cc")):
        (tmp_path / stage / key).mkdir(parents=True)
        write_json(tmp_path / stage / key / "manifest.json", {})
        progress = {"stage": stage, "state": "done", "began": 100.0, "updated": 130.0, "pid": 1}
        write_json(run.path / "progress" / f"{stage.replace('/', '-')}-{key}.json", progress)
    (tmp_path / "report" / "bb" / "report.html").write_text("<html/>")
    scores = {
        "task": "captioning",
        "headline": "cider",
        "n_expected": 48,
        "n_scored": 48,
        "metrics": {"cider": {"value": 241.5, "low": 230.25, "high": 250.0}},
        "controls": {"blank": {"cider": {"value": 12.5}}},
    }
    write_json(tmp_path / "evaluate/captioning" / "aa" / "scores.json", scores)
    return run


def test_status_shows_stages_and_places(run: RunFolder, capsys: Captured) -> None:
    assert main(["status", "--workspace", str(run.workspace)]) == 0
    output = capsys.readouterr().out
    assert "pretrain" in output
    assert "30 s" in output
    assert "succeeded" in output
    assert f"{run.workspace}/report/bb/report.html" in output
    assert "mlflow ui --backend-store-uri sqlite:////w/mlflow.db" in output


def test_report_prints_the_path(run: RunFolder, capsys: Captured) -> None:
    assert main(["report", run.run_id[:6], "--workspace", str(run.workspace)]) == 0
    assert capsys.readouterr().out.strip() == f"{run.workspace}/report/bb/report.html"


def browser(folder: Path, status: int) -> tuple[str, Path]:
    """Return what $BROWSER needs for a browser that notes what it is to open, and where it does."""
    program, opened = folder / "browser", folder / "opened"
    program.write_text(f'#!/bin/sh\necho "$1" > {opened}\nexit {status}\n')
    program.chmod(0o755)
    return f"{program} %s", opened


@pytest.mark.parametrize("status", [0, 1])
def test_report_opens_in_the_browser(run: RunFolder, tmp_path: Path, status: int) -> None:
    program, opened = browser(tmp_path, status)
    result = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "report", "--open", "--workspace", str(run.workspace)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "BROWSER": program}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    path = run.workspace / "report" / "bb" / "report.html"
    assert result.stdout == f"{path}\n"
    assert opened.read_text() == f"{path.as_uri()}\n"
    assert ("No browser was found" in result.stderr) == (status != 0)


def test_what_to_try_next_can_be_typed_as_it_stands(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.update_record(name="it's mine", preset="laptop")
    commands = [shlex.split(command) for command, _ in next_steps(run)]
    assert all(shutil.which(program) for program, *_ in commands)
    report, export, own_data = (build_parser().parse_args(arguments) for _, *arguments in commands)
    assert (report.run, report.open, report.workspace) == ("it's mine", True, str(run.workspace))
    assert (export.model, str(export.output)) == ("it's mine", "my-model")
    assert load_preset(own_data.preset, own_data.overrides).data.source == OWN_DATA
    # Where commands look by themselves it need not be said.
    monkeypatch.chdir(run.workspace.parent)
    here = RunFolder(run.workspace.parent / "workspace", run.run_id)
    assert not any("--workspace" in command for command, _ in next_steps(here))


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_what_a_model_says_is_shown_in_every_encoding(run: RunFolder, encoding: str) -> None:
    record = json.loads((run.path / "progress" / "pretrain-cc.json").read_text())
    message = "a model says 猫"
    write_json(run.path / "progress" / "pretrain-cc.json", {**record, "state": "failed", "message": message})
    result = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "status", "--workspace", str(run.workspace)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}, capture_output=True, check=True,
    )  # fmt: skip
    assert (message if encoding == "utf-8" else "a model says ?") in result.stdout.decode(encoding)


def test_summary_shows_some_captions_with_their_pictures(run: RunFolder) -> None:
    folder = run.workspace / "evaluate/captioning" / "aa"
    write_json(folder / "scores.json", json.loads((folder / "scores.json").read_text()) | {"kind": "captioning"})
    shown = [
        ShownSample(
            id=str(number),
            picture=f"pictures/{number}.jpg",
            references=(f"a cat of {number} kilos", "a cat"),
            answers={"none": Answer(text=f"[a] dog {number}" if number else "")},
        )
        for number in range(5)
    ]
    write_samples(folder, Samples(task="captioning", samples=shown))
    console = Console(file=io.StringIO(), width=80)
    print_summary(run, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    start = lines.index("pictures/0.jpg")
    assert lines[start : start + 6] == [
        "pictures/0.jpg",
        "  the model: (nothing)",
        "  the truth: a cat of 0 kilos",
        "pictures/1.jpg",
        "  the model: [a] dog 1",
        "  the truth: a cat of 1 kilos",
    ]
    assert "pictures/3.jpg" not in lines
    assert any(line.startswith(f"held-out pictures, in {folder}") for line in lines)
    assert any("vlm report" in line and "--open" in line for line in lines)


def test_summary_shows_scores_beside_controls(run: RunFolder) -> None:
    console = Console(file=io.StringIO(), width=150)
    print_summary(run, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("captioning: 48 of 48 scored", "blank", "241.5", "12.5", "230.2 to 250"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--preset", "laptp"], "There is no preset 'laptp'; did you mean laptop?"),
        (
            ["run", "--set", "pretrain.recipe.iterations=x"],
            "pretrain.recipe.iterations: Input should be a valid integer",
        ),
        (["compile", "--set", "nonsense=1", "-o", "x.yaml"], "There is no setting 'nonsense'"),
        (["run", "--workspace", "/proc/nothing"], "Can't write the workspace /proc/nothing"),
        (["status", "--workspace", "/nowhere"], "There are no runs in /nowhere"),
        (["report", "--workspace", "/nowhere"], "There are no runs in /nowhere"),
    ],
)
def test_mistakes_get_a_message_and_status_1(arguments: list[str], message: str, capsys: Captured) -> None:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("ERROR: ")
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_unknown_run_lists_those_there_are(run: RunFolder, capsys: Captured) -> None:
    assert main(["status", "other", "--workspace", str(run.workspace)]) == 1
    assert run.run_id in capsys.readouterr().err


def test_report_of_an_unfinished_run(tmp_path: Path, capsys: Captured) -> None:
    new_run(tmp_path, "early").update_record(state="failed", started="2026-01-01T00:00:00+00:00", pid=1)
    assert main(["report", "--workspace", str(tmp_path)]) == 1
    assert "has no report yet: it is failed" in capsys.readouterr().err


def test_wrong_usage_is_status_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compile"])
    assert caught.value.code == 2


def test_compile_writes_a_package(tmp_path: Path, capsys: Captured) -> None:
    output = tmp_path / "deep" / "package.yaml"
    assert main(["compile", "--set", "name='it''s mine'", "-o", str(output)]) == 0
    assert "it's mine" in output.read_text()
    assert capsys.readouterr().out.strip() == str(output)


def test_help_lists_every_command_in_a_group_and_fits_a_terminal(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    groups = re.findall(r"^[A-Z][^:]+:\n((?:  \S.*\n?)+)", text.partition("--help")[2], flags=re.MULTILINE)
    listed = [line.split()[0] for group in groups for line in group.splitlines()]
    assert len(groups) >= 4
    (subparsers,) = (action for action in build_parser()._actions if isinstance(action.choices, dict))
    assert sorted(listed) == sorted(subparsers.choices or ())
    assert max(map(len, text.splitlines())) < 80


def test_no_command_shows_the_help_and_is_status_2(capsys: Captured) -> None:
    assert main([]) == 2
    assert "On this machine:" in capsys.readouterr().err


def test_help_is_quick() -> None:
    """Nobody waits for torch to read a usage line."""
    code = "import sys, pipelines.cli\ntry: pipelines.cli.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.endswith("False\n")


def test_doctor_accepts_a_machine_with_everything(tmp_path: Path, capsys: Captured) -> None:
    assert main(["doctor", "--workspace", str(tmp_path / "new")]) == 0
    output = capsys.readouterr().out
    for subject in ("Python", "torch", "megatron-core", "Java", "CUDA", "memory", "MLflow"):
        assert subject in output


@pytest.mark.parametrize(
    ("cuda", "reason"), [(None, "this PyTorch is a CPU build"), ("13.0", "for CUDA 13.0 can't use it")]
)
def test_doctor_says_why_a_gpu_stays_idle(
    cuda: str | None, reason: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise training runs on the CPU, some thousand times slower, and nobody is told why."""
    monkeypatch.setattr(machine, "_GPU_DEVICE", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.cuda, "init", init)
    assert main(["doctor", "--workspace", str(tmp_path)]) == 0, "the laptop preset needs no GPU"
    assert reason in capsys.readouterr().out


def test_doctor_refuses_a_machine_without_the_needed(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_NEEDED_DISK_GIB", 10**6)
    monkeypatch.setattr(machine, "_PACKAGES", ("no-such-package",))
    assert main(["doctor", "--workspace", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "The laptop preset can't run here: no-such-package, workspace." in output


def test_run_record_survives_a_reader(run: RunFolder) -> None:
    assert json.loads((run.path / "run.json").read_text())["preset"] == "laptop"


def test_stage_that_was_told_to_stop_did_not_fail(run: RunFolder) -> None:
    record = {
        "stage": "sft",
        "state": "failed",
        "message": "KeyboardInterrupt('signal 15')",
        "began": 1.0,
        "updated": 2.0,
    }
    write_json(run.path / "progress" / "sft-dd.json", record)
    (row,) = (row for row in run.stages(over=True) if row.stage == "sft")
    assert (row.state, row.message) == ("interrupted", "")


def test_job_shows_what_would_be_submitted(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = ["--set", "pretrain.launch.nodes=8"]
    assert main(["job", "pretrain", "--preset", "mistral-clip-7b", *nodes]) == 0
    body = yaml.safe_load(capsys.readouterr().out)
    assert custom_resource_errors(body) == []
    assert body["kind"] == "PyTorchJob"
    assert body["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 7


def test_job_of_a_stage_that_submits_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["job", "sft", "--preset", "laptop"]) == 1
    assert "sft.launch.backend is local" in capsys.readouterr().err
    assert main(["job", "combine", "--preset", "mistral-clip-7b"]) == 1
    assert "'combine' submits no training job. Stages that train: pretrain, sft." in capsys.readouterr().err
