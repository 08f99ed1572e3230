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
from types import FrameType

import psutil

from components.errors import ConfigurationError, StageError
from components.launch.job import TrainingJob
from components.launch.pod import RANK_PREFIX, SHUTDOWN_VARIABLE

_LAST_LINES = 20


def run_local(job: TrainingJob) -> None:
    """Run the job with torchrun and wait for it.

    The output of all ranks is passed on line by line, the rank named. A SIGTERM or SIGINT that reaches this process
    is handed to every rank, which gets `cluster.job.grace_s` seconds to save before it is killed.

    Raises:
        ConfigurationError: The job asks for several machines.
        StageError: A rank failed; the message holds its last lines.
    """
    config = job.config
    if config.nodes > 1:
        raise ConfigurationError(
            f"launch.nodes is {config.nodes}, but the local backend has one machine. Set launch.nodes to 1 and "
            f"launch.processes_per_node to the number of GPUs here."
        )
    shutil.rmtree(job.log_folder, ignore_errors=True)
    job.log_folder.mkdir(parents=True)
    command = [
        sys.executable,
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
        **job.environment,
    }
    last_lines: deque[str] = deque(maxlen=_LAST_LINES)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    reader = threading.Thread(target=_pass_on, args=(process, last_lines), daemon=True)
    with _terminated_with_us(process, job.cluster.job.grace_s):
        reader.start()
        code = process.wait()
        reader.join(timeout=5)
    if code != 0:
        raise StageError(f"Training job {job.name} failed with exit code {code}.\n{_why(job, last_lines)}")


def _pass_on(process: "subprocess.Popen[str]", last_lines: deque[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        last_lines.append(line.rstrip())
        print(line, end="", flush=True)


def _why(job: TrainingJob, last_lines: deque[str]) -> str:
    """Return the last error lines of the first failing rank, or what torchrun said."""
    for path in sorted(job.log_folder.rglob("stderr.log")):
        lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        errors = [index for index, line in enumerate(lines) if line.startswith(("ERROR:", "Traceback"))]
        if errors:
            return f"Rank {path.parent.name}: " + "\n".join(lines[errors[-1] :][-_LAST_LINES:])
    return "\n".join(last_lines)


@contextmanager
def _terminated_with_us(process: "subprocess.Popen[str]", grace_s: float) -> Iterator[None]:
    """Let no process of the job outlive this one: torchrun starts its ranks in sessions of their own."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(f"signal {signum}")

    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, stop) if in_main_thread else None
    try:
        yield
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, previous)
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
