"""Ends all processes of a run: torchrun's workers live in sessions of their own, so a process group is not enough.

Every process of a run carries the run's folder in its environment, which also finds those whose parent is gone.
"""

import contextlib
import os

import psutil

_TERMINATE_WAIT_S = 10.0
_KILL_WAIT_S = 5.0
_ROUNDS = 5


def end_processes(mark: tuple[str, str]) -> None:
    """Terminate, then kill, every process that carries a mark, or has a marked ancestor; never this one.

    Args:
        mark: An environment variable and its value.
    """
    for round_ in range(_ROUNDS):  # looked up again each time: an ending process may have started another
        processes = marked_processes(mark)
        if not processes:
            return
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.terminate() if round_ == 0 else process.kill()
        psutil.wait_procs(processes, timeout=_TERMINATE_WAIT_S if round_ == 0 else _KILL_WAIT_S)


def marked_processes(mark: tuple[str, str]) -> list[psutil.Process]:
    """Return the processes that carry a mark and their descendants, without this process and zombies."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # gone meanwhile, or another person's
            if process.environ().get(mark[0]) == mark[1]:
                found[process.pid] = process
                found.update({child.pid: child for child in process.children(recursive=True)})
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
