"""Runs a pipeline on this machine, in a child process whose whole tree ends with this one."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from rich.console import Console

from components.context import RunContext
from components.errors import ConfigurationError
from components.interruption import interrupted_once
from components.runs.folder import PACKAGE_NAME, RUN_ID_VARIABLE, RunFolder, new_run, timestamp
from components.tracking.pipeline_run import finish_pipeline_run
from components.tracking.sender import SENDER_VARIABLE, sender_process
from pipelines.display import follow
from pipelines.processes import end_processes

if TYPE_CHECKING:
    from pipelines.config import RunConfig

Runner = Literal["process", "docker"]
_SOURCE_ROOT = Path(__file__).resolve().parent.parent
# Runs of other tools must not be mistaken for this run's.
_FOREIGN_VARIABLES = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """The person at the terminal, or the system, asked for the end of the run; the text names the signal."""


def run_here(
    config: "RunConfig", preset: str, overrides: Sequence[str], console: Console, runner: Runner = "process"
) -> tuple[RunFolder, int]:
    """Compile and execute a configuration on this machine.

    Args:
        config: The validated configuration.
        preset: Name of its preset, for the record.
        overrides: Overrides that are in it, for the record.
        console: Where the run is shown.
        runner: Whether stages are processes here or Docker containers.

    Returns:
        The run's folder and 0 when every stage succeeded, else 1.

    Raises:
        ConfigurationError: The workspace can't be written.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; all processes of the run have ended. The process is deaf to more of them.
    """
    from pipelines.compile import compile_pipeline
    from pipelines.forecast import expected_seconds
    from pipelines.stages import listed_stages

    workspace = config.workspace.absolute()
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        run = new_run(workspace, config.name)
    except OSError as error:
        raise ConfigurationError(
            f"Can't write the workspace {workspace}: {error}. Choose another with --workspace."
        ) from error
    # Absolute: a container has another working directory.
    compile_pipeline(config.model_copy(update={"workspace": workspace}), run.path / PACKAGE_NAME)
    stages = listed_stages(config)
    run.update_record(
        name=config.name,
        preset=preset,
        overrides=list(overrides),
        stages=[stage.name for stage in stages],
        tasks={stage.name: stage.tasks(config) for stage in stages},
        expected_s=expected_seconds(config),
        started=timestamp(),
        state="running",
        pid=os.getpid(),
    )
    return run, execute(run, console, runner)


def execute(run: RunFolder, console: Console, runner: Runner = "process") -> int:
    """Execute the compiled pipeline of a run folder and show how it goes.

    Args:
        run: The run's folder.
        console: Where the run is shown.
        runner: Whether stages are processes here or Docker containers.

    Returns:
        0 when every stage succeeded, else 1.

    Raises:
        Interrupted: All processes of the run have ended.
    """
    state = "interrupted"
    with open(run.log, "wb") as log, _tracked(run, log, runner):
        try:
            with interrupted_once(_STOP_SIGNALS, Interrupted), _worker(run, log.fileno(), runner) as child:
                status = follow(run, child, console)
            state = "succeeded" if status == 0 else "failed"
            return 0 if status == 0 else 1
        finally:
            run.update_record(state=state, ended=timestamp())
            if state != "succeeded" and run.context():
                context = RunContext.model_validate(run.context())
                finish_pipeline_run(context, "KILLED" if state == "interrupted" else "FAILED", send=runner == "docker")


def _tracked(run: RunFolder, log: BinaryIO, runner: Runner) -> contextlib.AbstractContextManager[None]:
    """Send to MLflow what the stages of this run log, for all of them in one process; containers do so themselves."""
    return contextlib.nullcontext() if runner == "docker" else sender_process(run.workspace, run.run_id, log)


@contextlib.contextmanager
def _worker(run: RunFolder, log: int, runner: Runner) -> Iterator[subprocess.Popen[bytes]]:
    """Start the child in a session of its own; when the block ends, however it does, no process of the run is left."""
    child = None
    try:
        child = subprocess.Popen(
            [sys.executable, "-u", "-m", "pipelines.local_worker", str(run.path), runner],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(run, runner),
            start_new_session=True,
        )
        yield child
    finally:
        with _uninterruptible():
            end_processes(run.mark)
            if runner == "docker":
                from pipelines.docker_runner import end_containers

                end_containers(run.mark[1])
            if child is not None:
                child.wait()


def _environment(run: RunFolder, runner: Runner) -> dict[str, str]:
    """Return the child's environment: this Python's tools first, this source tree importable, the run's mark."""
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN_VARIABLES}
    environment |= {RUN_ID_VARIABLE: run.run_id, run.mark[0]: run.mark[1]}
    if runner == "process":
        environment[SENDER_VARIABLE] = "vlm run"
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    paths = [str(_SOURCE_ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


@contextlib.contextmanager
def _uninterruptible() -> Iterator[None]:
    """Let a Ctrl-C after the run's last stage not leave processes behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
