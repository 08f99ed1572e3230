"""Ends everything of a run of this machine: its command, processes, containers, its run in MLflow; says line by line what it did."""

import contextlib
from collections.abc import Callable

import psutil

from components.context import RunContext
from components.errors import VlmError
from components.runs.folder import RunFolder, timestamp
from components.tracking.pipeline_run import finish_pipeline_run
from pipelines.docker_runner import end_containers
from pipelines.processes import end_processes, marked_processes

_COMMAND_ENDS_S = 60.0  # it ends its stages itself, which have ten seconds to end


def cancel_here(run: RunFolder, say: Callable[[str], None]) -> bool:
    """End everything of a run.

    Args:
        run: The run's folder.
        say: Is given every line for the person.

    Returns:
        Whether nothing of the run is left on this machine.
    """
    mark = run.mark
    before = marked_processes(mark)
    command = _command(run, before)
    if command is not None:
        with contextlib.suppress(psutil.Error):
            command.terminate()
            command.wait(_COMMAND_ENDS_S)
    end_processes(mark)
    end_containers(mark[1])
    left = marked_processes(mark)
    ended = len(before) - len(left) + (command is not None and not command.is_running())
    say(f"processes {ended} ended" if ended else "processes none was running on this machine")
    if left:
        say(
            f"processes NOT ENDED: {', '.join(str(process.pid) for process in left)}. To end them: kill -9 as their owner"
        )
    if run.record().get("state") == "running" and not left:
        run.update_record(state="interrupted", ended=timestamp())
    state = run.state()
    more = "" if state == "succeeded" else "; `vlm run` again goes on where it was"
    say(f"run       {run.run_id} is {state}{more}")
    return _end_in_mlflow(run, say) and not left


def _command(run: RunFolder, processes: list[psutil.Process]) -> psutil.Process | None:
    """Return the `vlm run` that runs it: the process that its record names, if that has a process of the run below it."""
    pid = run.record().get("pid")
    parents = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            parents.add(process.ppid())
    try:
        return psutil.Process(int(pid)) if pid is not None and int(pid) in parents else None
    except psutil.Error:
        return None


def _end_in_mlflow(run: RunFolder, say: Callable[[str], None]) -> bool:
    """Close the run in MLflow if it is still open there; False where MLflow can't be asked."""
    from components.tracking.client import as_stage_error, connect

    if not run.context().get("mlflow_run_id"):
        say("MLflow    has no run of it")
        return True
    context = RunContext.model_validate(run.context())
    try:
        client = connect(context.tracking_uri)
        with as_stage_error(context.tracking_uri):
            if client.get_run(context.mlflow_run_id).info.status == "RUNNING":
                finish_pipeline_run(context, "KILLED")
            status = client.get_run(context.mlflow_run_id).info.status
    except VlmError as error:
        say(f"MLflow    NOT ENDED: {str(error).rstrip('.')}. To end it: vlm cancel {run.run_id}, when it answers")
        return False
    say(f"MLflow    the run {context.mlflow_run_id} is {status}")
    return True
