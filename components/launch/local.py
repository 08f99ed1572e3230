"""Runs a training job with torchrun on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from components.errors import StageError
from components.interruption import interrupted_once
from components.launch.evidence import Evidence
from components.launch.failure import accuse, failed
from components.launch.fit import check_fit
from components.launch.job import TrainingJob
from components.launch.pod import RANK_PREFIX, SHUTDOWN_VARIABLE, stall_environment
from components.launch.stall import StallWatch, where_ranks_stand

_KEPT_LINES = 4000
_LOOK_S = 10.0
_STUCK_GRACE_S = 10.0  # ranks that wait for one another can't save


def run_local(job: TrainingJob) -> None:
    """Run the job with torchrun and wait for it.

    The output of all ranks is passed on line by line, the rank named. A SIGTERM or SIGINT that reaches this process
    is handed to every rank, which gets `cluster.job.grace_s` seconds to save before it is killed.

    Raises:
        ConfigurationError: The job asks for several machines.
        TrainingFailed: A rank failed and would fail again; the message holds its last lines.
        ClusterFailure: A rank failed, or all got no further; another try goes on from the newest checkpoint.
    """
    config = job.config
    check_fit(config, job.cluster)
    shutil.rmtree(job.log_folder, ignore_errors=True)
    job.log_folder.mkdir(parents=True)
    command = [
        os.environ.get("PYTHON_EXEC", sys.executable),  # as torchrun itself starts its ranks
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={config.processes_per_node}",
        f"--log-dir={job.log_folder}",
        "--tee=3",
        "--max-restarts=0",
        "--module",
        job.module,
        *job.arguments,
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(config.threads_per_process),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": RANK_PREFIX,
        SHUTDOWN_VARIABLE: str(job.cluster.job.grace_s),
        **stall_environment(job),
        **job.environment,
    }
    output: deque[str] = deque(maxlen=_KEPT_LINES)
    watch = StallWatch(job.cluster.job.stall_s, job.progress.done)
    stalled = ""
    with interrupted_once(), _torchrun(command, environment, job.cluster.job.grace_s) as process:
        reader = threading.Thread(target=_pass_on, args=(process, output, watch), daemon=True)
        reader.start()
        while process.poll() is None and not stalled:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=min(_LOOK_S, job.cluster.job.poll_s))
            stalled = watch.stalled()
        if stalled:
            terminate_tree(process.pid, _STUCK_GRACE_S)
        reader.join(timeout=5)
    if stalled or process.returncode != 0:
        raise _failure(job, list(output), process.returncode, stalled)


def _pass_on(process: "subprocess.Popen[str]", output: deque[str], watch: StallWatch) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        output.append(line.rstrip())
        watch.heard(line)
        print(line, end="", flush=True)


def _failure(job: TrainingJob, output: list[str], torchrun_code: int, stalled: str) -> StageError:
    """Return the error of a job that failed: the rank that failed first, its last lines, and why."""
    if stalled:
        stand = "\n".join(where_ranks_stand({"torchrun": output}))
        return failed(f"Training job {job.name} got no further: {stalled}.", Evidence(stalled=stalled), stand)
    rank, evidence = accuse(output, torchrun_code)
    who = f"rank {rank}" if rank is not None else "torchrun"
    return failed(f"Training job {job.name} failed: {who} ended with {evidence.ended}.", evidence, evidence.text)


@contextmanager
def _torchrun(command: list[str], environment: dict[str, str], grace_s: float) -> Iterator["subprocess.Popen[str]"]:
    """Start torchrun, and let no process of the job outlive the block: its ranks are in sessions of their own."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            terminate_tree(process.pid, grace_s)


def terminate_tree(pid: int, grace_s: float) -> None:
    """Send SIGTERM to torchrun, then SIGKILL to it and its descendants that are left after `grace_s` seconds.

    torchrun hands the signal to its ranks. Their own children (loader processes) must not get it: a rank that loses
    them can't save.

    Args:
        pid: torchrun's process.
        grace_s: Seconds for all of them to end.
    """
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    _signal(root, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=5)


def _signal(process: psutil.Process, signum: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signum)
