"""The whole DAG by the README's commands, in a small version: killed in pretraining, gone on, reused, exported, compared."""

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from mlflow.tracking import MlflowClient

from components.runs.find import Places, find_run
from components.runs.folder import RunFolder
from pipelines.processes import marked_processes
from tests.support.paths import ROOT, SUPPORT
from tests.support.readme import blocks, console_commands, section, vlm
from tests.support.small_chain import SMALL_RUN
from tests.support.waiting import wait_for

DEMO = vlm(".venv/bin/vlm run --preset laptop")


def _start(here: Path, command: list[str], *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(_small(command, *more), cwd=here, env=_environment(), stdout=subprocess.DEVNULL)


def _run(here: Path, command: list[str], *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _small(command, *more), cwd=here, env=_environment(), capture_output=True, text=True, timeout=900, check=False
    )


def _small(command: list[str], *more: str) -> list[str]:
    return [*command, *(argument for override in [*SMALL_RUN, *more] for argument in ("--set", override))]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "BROWSER": "true"}  # pages are opened by /bin/true


def _latest(workspace: Path) -> RunFolder:
    return find_run("", Places(workspace)).here()


def _states(run: RunFolder) -> dict[str, str]:
    return {row.stage: row.state for row in run.stages(over=True)}


def _kill_everything(process: subprocess.Popen[bytes], run: RunFolder) -> None:
    """Kill -9 the command and every process of the run, as a power cut would."""
    for victim in [psutil.Process(process.pid), *marked_processes(run.mark)]:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    process.wait()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader of the README stands."""
    return tmp_path_factory.mktemp("laptop")


@pytest.fixture
def workspace(here: Path) -> Path:
    return here / "workspace"


def test_run_killed_in_pretraining_goes_on_and_finishes(here: Path, workspace: Path) -> None:
    assert "$(BIN)/vlm run --preset laptop" in (ROOT / "Makefile").read_text(encoding="utf-8")
    process = _start(here, DEMO)

    def trained() -> bool:
        assert process.poll() is None, "the run ended before it was killed"
        return any(workspace.glob("pretrain/*/training/iter_0000008"))

    wait_for(trained, patience_s=600)
    killed = _latest(workspace)
    _kill_everything(process, killed)
    finished = {stage for stage, state in _states(killed).items() if state == "done"} - {"open_run"}
    assert "combine" in finished

    result = _run(here, DEMO)
    assert result.returncode == 0, result.stdout + result.stderr
    states = _states(_latest(workspace))
    assert {states[stage] for stage in finished} == {"reused"}
    assert states["pretrain"] == "done"
    assert set(states.values()) <= {"done", "reused"}
    log = _latest(workspace).log.read_text()
    assert re.search(r"pretrain: resumed at step \d+", log)
    assert "fork server" not in log  # which speaks up when it can't fork


def test_scores_are_shown_with_their_controls(workspace: Path) -> None:
    (captioning,) = workspace.glob("evaluate/captioning/*/scores.json")
    scores = json.loads(captioning.read_text())
    assert scores["n_scored"] == scores["n_expected"] == 20
    assert {"blank", "shuffled"} <= set(scores["controls"])
    assert "meteor" in scores["metrics"]  # by its whole table of paraphrases, which other tests leave out
    (choice,) = workspace.glob("evaluate/multiple_choice/*/scores.json")
    assert json.loads(choice.read_text())["n_scored"] == 20


def test_report_is_one_page_that_needs_nothing_else(here: Path) -> None:
    command = vlm(".venv/bin/vlm report")
    result = subprocess.run(
        command, cwd=here, env=_environment(), capture_output=True, text=True, check=True, timeout=60
    )
    page = Path(result.stdout.strip()).read_text(encoding="utf-8")
    assert "CIDEr" in page
    assert "data:image/" in page
    assert not re.search(r"""(?:src|href)=["']https?://""", page)


def test_export_answers_in_transformers_alone_as_the_run_did(workspace: Path, tmp_path: Path) -> None:
    (export,) = (path.parent for path in workspace.glob("export/*/manifest.json"))
    (raw,) = workspace.glob("download/dataset/*/images.zip")
    (predictions,) = workspace.glob("generate/multiple_choice/*/predictions.jsonl")
    rows = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    asked = [row for row in rows if row["control"] == "none"][:8]
    with zipfile.ZipFile(raw) as pictures:
        cases = [{"question": row["prompt"], "picture": pictures.extract(row["image"], tmp_path)} for row in asked]
    task = {
        "exports": [{"folder": str(export), "trusted": True}],
        "cases": cases,
        "new_tokens": 32,
        "results": str(tmp_path / "results.pt"),
    }
    (tmp_path / "task.json").write_text(json.dumps(task), encoding="utf-8")
    loader = SUPPORT / "export_loader.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-P", str(loader), str(tmp_path / "task.json")],
        cwd=tmp_path,
        env={**environment, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        check=True,
        timeout=300,
    )
    (result,) = torch.load(tmp_path / "results.pt", weights_only=True)
    assert result["problems"] == {}
    answers = [answer["text"].strip().partition("\n")[0] for answer in result["answers"]]
    assert answers == [row["text"] for row in asked]
    assert "| multiple_choice_text" in (export / "README.md").read_text(encoding="utf-8")


def test_mlflow_has_a_nested_run_per_stage_with_curves(workspace: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{workspace}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags and run.info.status == "FINISHED"]
    assert len(parents) == 1
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert {"pretrain", "sft", "combine", "evaluate/captioning"} <= {run.info.run_name for run in nested}
    pretrain = next(run for run in nested if run.info.run_name == "pretrain")
    steps = {metric.step for metric in client.get_metric_history(pretrain.info.run_id, "loss")}
    assert max(steps) == 24
    assert client.get_metric_history(parents[0].info.run_id, "pretrain.loss")


def test_your_model_back_works_as_written(here: Path, workspace: Path) -> None:
    (export,) = console_commands(section("Your model, back"))
    subprocess.run(vlm(export), cwd=here, env=_environment(), check=True, timeout=300, capture_output=True)
    (raw,) = workspace.glob("download/dataset/*/images.zip")
    with zipfile.ZipFile(raw) as pictures:
        (here / "picture.jpg").write_bytes(pictures.read(pictures.namelist()[0]))
    (program,) = blocks(section("Your model, back"), "python")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(here / "modules")}
    said = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=here,
        env={name: value for name, value in environment.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert len(said.stdout.splitlines()) == 1  # what it says, which after so few steps may be nothing


def test_comparing_runs_works_as_written(here: Path) -> None:
    run, compare, interface = console_commands(section("Comparing runs"))
    changed = "sft.recipe.iterations"
    assert f"--set {changed}=" in run
    other = _run(here, vlm(run), f"{changed}=6")  # fewer than the run before, as the README's are
    assert other.returncode == 0, other.stdout + other.stderr
    assert _states(_latest(here / "workspace"))["pretrain"] == "reused"
    told = subprocess.run(
        vlm(compare), cwd=here, env=_environment(), capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert changed in told
    assert "CIDEr" in (here / "comparison.html").read_text(encoding="utf-8")
    # Its port is a fixed one: that it starts is shown elsewhere, here that it takes these options and finds the database.
    program, *options = shlex.split(interface)
    subprocess.run(
        [Path(sys.executable).with_name(Path(program).name), *options, "--help"], check=True, capture_output=True
    )
    assert (here / options[-1].removeprefix("sqlite:///")).is_file()


def test_unknown_setting_is_refused_before_anything_runs(tmp_path: Path) -> None:
    result = _run(tmp_path, DEMO, "pretrain.recipe.learning_rat=1")
    assert result.returncode == 1
    assert "learning_rate" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
