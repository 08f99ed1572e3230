"""`vlm run`'s machinery with small pipelines: failure, success, interruption."""

import datetime
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from kfp import compiler, dsl
from kfp.dsl.base_component import BaseComponent
from rich.console import Console

from components.runs.find import Places, find_run
from components.runs.folder import PACKAGE_NAME, RunFolder, new_run
from components.runs.rows import StageRow
from pipelines.display import duration, follow, what
from pipelines.local_run import execute
from pipelines.preset_files import load_preset
from pipelines.processes import end_processes, marked_processes
from pipelines.stages import listed_stages
from pipelines.summary import free_port, locations
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE_S, wait_for

STAGES = [stage.name for stage in listed_stages(load_preset("laptop"))]


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def stage(workspace: str, name: str, fail: bool):
    import os
    from pathlib import Path

    from pydantic import BaseModel

    from components.context import RunContext
    from components.errors import InputError
    from components.stage.runner import run_stage
    from components.stage.shell import reported_errors

    class Settings(BaseModel):
        size: int = 1

    def body(work):
        work.progress.start("counting", 3, "things")
        work.progress.update(3, loss=0.5)
        if fail:
            raise InputError("raw.json: has no pictures. Point data.source elsewhere.")
        return {"things": 3}

    context = RunContext(run_id=os.environ["VLM_RUN_ID"], run_name="t", workspace=Path(workspace))
    with reported_errors():
        run_stage(context, stage=name, version=1, inputs={}, settings=Settings(), body=body)


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def sleeper(pid_file: str, deaf: bool):
    """Like torchrun: a worker in a session of its own; a deaf one does not end on SIGTERM."""
    import subprocess
    import sys

    code = (
        f"import os, signal, sys, time; {deaf} and signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    )
    subprocess.run([sys.executable, "-c", code, pid_file], start_new_session=True)


def prepared(workspace: Path, pipeline: BaseComponent) -> RunFolder:
    run = new_run(workspace, "Test run!")
    compiler.Compiler().compile(pipeline, str(run.path / PACKAGE_NAME))
    run.update_record(
        preset="test",
        stages=STAGES,
        started=datetime.datetime.now(datetime.UTC).isoformat(),
        state="running",
        pid=os.getpid(),
    )
    return run


def two_stages(workspace: Path, fail: bool) -> BaseComponent:
    @dsl.pipeline(name="two-stages")
    def two() -> None:
        first = stage(workspace=str(workspace), name="combine", fail=False)
        stage(workspace=str(workspace), name="pretrain", fail=fail).after(first)

    return two


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def output_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_failing_stage_fails_the_run_with_its_message(tmp_path: Path) -> None:
    run = prepared(tmp_path, two_stages(tmp_path, fail=True))
    console = quiet()
    assert execute(run, console) == 1
    assert run.error() == "pretrain: raw.json: has no pictures. Point data.source elsewhere."
    assert run.state() == "failed"
    rows = {row.stage: row.state for row in run.stages(over=True)}
    assert (rows["combine"], rows["pretrain"], rows["sft"]) == ("done", "failed", "waiting")
    assert "ERROR: raw.json: has no pictures" in run.log.read_text()
    assert "Traceback" not in run.log.read_text()
    assert "pretrain: raw.json: has no pictures" in output_of(console)


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def gate():
    import sys

    print("ERROR: The model does not pass its gates.\n  CIDEr at least 90: 12", file=sys.stderr)
    sys.exit(1)


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def closing(seen: str, status: dsl.PipelineTaskFinalStatus):
    from pathlib import Path

    Path(seen).write_text(status.state)


@pytest.mark.parametrize("fails", [True, False])
def test_task_below_an_exit_handler_fails_the_run_with_its_message(tmp_path: Path, fails: bool) -> None:
    seen = tmp_path / "state"

    @dsl.pipeline(name="guarded")
    def guarded() -> None:
        with dsl.ExitHandler(closing(seen=str(seen)), name="all"):
            if fails:
                gate()
            else:
                stage(workspace=str(tmp_path), name="combine", fail=False)

    run = prepared(tmp_path, guarded)
    assert execute(run, quiet()) == (1 if fails else 0)
    assert seen.read_text() == ("FAILED" if fails else "SUCCEEDED")
    if fails:
        assert run.error() == "The model does not pass its gates.\n  CIDEr at least 90: 12"


def test_second_run_reuses_finished_stages(tmp_path: Path) -> None:
    workspace = tmp_path / "my python3 runs"  # KFP would replace the "python3" of a path
    assert execute(prepared(workspace, two_stages(workspace, fail=False)), quiet()) == 0
    console = quiet()
    run = prepared(workspace, two_stages(workspace, fail=False))
    assert execute(run, console) == 0
    assert run.state() == "succeeded"
    assert "combine: finished before" in output_of(console)
    assert find_run("", Places(workspace)).run_id == run.run_id


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def say(word: str, seconds: float):
    import time

    time.sleep(seconds)
    print(f"said {word}")


def test_log_is_indented_once_after_tasks_side_by_side(tmp_path: Path) -> None:
    @dsl.pipeline(name="talking")
    def talking() -> None:
        with dsl.ParallelFor([0.0, 1.0], name="side by side") as seconds:
            first = say(word="something", seconds=seconds)
        say(word="last", seconds=0.0).after(first)

    run = prepared(tmp_path, talking)
    assert execute(run, quiet()) == 0
    assert run.log.read_text().splitlines().count("    said last") == 1


def test_interruption_leaves_no_process_and_nothing_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "pid"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    @dsl.pipeline(name="sleeping")
    def sleeping() -> None:
        sleeper(pid_file=str(pid_file), deaf=True)

    run = prepared(tmp_path, sleeping)
    vlm = start_execute(run)
    worker = psutil.Process(
        wait_for(lambda: int(pid_file.read_text()) if pid_file.exists() and pid_file.read_text() else None)
    )
    vlm.send_signal(signal.SIGINT)
    time.sleep(0.2)
    vlm.send_signal(signal.SIGINT)  # an impatient person
    assert vlm.wait(timeout=PATIENCE_S) == 130
    assert not worker.is_running()
    assert not marked_processes(run.mark)
    assert run.record()["state"] == "interrupted"
    assert not list(temporary.glob("kfp-*"))


def test_killed_parent_leaves_no_process(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    @dsl.pipeline(name="sleeping")
    def sleeping() -> None:
        sleeper(pid_file=str(pid_file), deaf=False)

    run = prepared(tmp_path, sleeping)
    vlm = start_execute(run)
    run.update_record(pid=vlm.pid)
    wait_for(pid_file.exists)
    vlm.kill()
    vlm.wait()
    wait_for(lambda: not marked_processes(run.mark))
    assert run.state() == "interrupted"


def start_execute(run: RunFolder) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from pathlib import Path; from rich.console import Console;"
        "from pipelines.local_run import Interrupted, execute; from components.runs.folder import RunFolder\n"
        "from pipelines import processes; processes._TERMINATE_WAIT_S = 1.0  # for the deaf\n"
        "try: execute(RunFolder(Path(sys.argv[1]), sys.argv[2]), Console())\n"
        "except Interrupted: sys.exit(130)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(run.workspace), run.run_id], cwd=ROOT, stdout=subprocess.DEVNULL
    )


def test_live_display_shows_every_stage(tmp_path: Path) -> None:
    run = new_run(tmp_path, "live")
    run.update_record(stages=STAGES)
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert follow(run, child, console) == 0
    assert "generate/captioning" in output_of(console)


def test_running_stage_is_described() -> None:
    row = StageRow(
        "pretrain",
        "running",
        activity="training",
        unit="steps",
        done=40,
        total=300,
        rate=2.0,
        left_s=130.0,
        fields=(("loss", 1.25),),
    )
    assert what(row) == "training 40/300 steps, 2/s, loss 1.25, 2:10 left"


@pytest.mark.parametrize(("seconds", "text"), [(8.4, "8 s"), (205, "3:25"), (3723, "1:02:03")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_mlflow_command_names_a_free_port(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port
    run = new_run(tmp_path, "x")
    (run.path / "context.json").write_text('{"tracking_uri": "sqlite:////w/mlflow.db"}')
    program, _, arguments = locations(run)["MLflow"].partition(" ")
    assert Path(program).name == "mlflow"
    assert shutil.which(program)
    assert arguments.startswith("ui --backend-store-uri sqlite:////w/mlflow.db --port ")


def test_runs_of_one_second_get_their_own_folders(tmp_path: Path) -> None:
    first, second = new_run(tmp_path, "My Run"), new_run(tmp_path, "My Run")
    assert first.path != second.path
    assert first.run_id.startswith("my-run-")


def test_runs_of_two_workspaces_with_one_id_leave_each_other_alone(tmp_path: Path) -> None:
    runs = [RunFolder(tmp_path / name, "laptop-20260101-000000") for name in ("a", "b")]
    sleepers = [
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, run.mark[0]: run.mark[1]}
        )
        for run in runs
    ]
    try:
        wait_for(lambda: all(marked_processes(run.mark) for run in runs))
        end_processes(runs[0].mark)
        assert [sleeper.poll() is None for sleeper in sleepers] == [False, True]
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
