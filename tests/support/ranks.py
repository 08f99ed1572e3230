"""The processes of one job, as torchrun would start them: forked from a server that has imported the engine once."""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import psutil
import torch

import components.wds_conversion.shards  # noqa: F401  # it sets a list for the same server: ours replaces it
from tests.support.waiting import wait_for

_PROCESSES = multiprocessing.get_context("forkserver")
# Imported once, by the server that all processes are forked from: a start costs a fork, where torchrun's ranks import for seconds.
_PROCESSES.set_forkserver_preload(
    ["tests.support.engine", "components.wds_conversion.planning", "tests.support.frozen"]
)


class Ranks:
    """A job that runs (gloo): a function in each of its processes.

    Args:
        world_size: Number of processes.
        work: A function of a module; it sets up torch.distributed by `components.model.distributed.initialize`.
        *arguments: What it is called with; they are pickled.
        output: A file that gets what the processes print; this process's output by default.
    """

    def __init__(
        self, world_size: int, work: Callable[..., object], *arguments: object, output: Path | None = None
    ) -> None:
        self._store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._problems = _PROCESSES.SimpleQueue()
        self._processes = [
            _PROCESSES.Process(
                target=_rank, args=(rank, world_size, self._store.port, output, self._problems, work, arguments)
            )
            for rank in range(world_size)
        ]
        for process in self._processes:
            process.start()

    def wait(self, seconds: float | None = None) -> list[int]:
        """Wait until all have ended, and return their exit codes."""
        end = None if seconds is None else time.monotonic() + seconds
        for process in self._processes:
            process.join(None if end is None else max(0.0, end - time.monotonic()))
        codes = [process.exitcode for process in self._processes]
        if None in codes:
            raise TimeoutError(f"Ranks {[rank for rank, code in enumerate(codes) if code is None]} still run.")
        return [code for code in codes if code is not None]

    def kill_when(self, condition: Callable[[], bool]) -> None:
        """Kill all of them as soon as something is true, before they have ended."""

        def look() -> bool:
            if not any(process.is_alive() for process in self._processes):
                raise AssertionError(f"They ended before they could be killed.{self._problem()}")
            return condition()

        wait_for(look, look_s=0.002)
        self.kill()

    def _problem(self) -> str:
        """Return the traceback of the first that failed, if one did."""
        return "" if self._problems.empty() else f"\n{self._problems.get()}"

    def signal(self, number: int, *ranks: int) -> None:
        """Send a signal to some of them, which must run; without numbers, to all."""
        for rank in ranks or range(len(self._processes)):
            os.kill(self._processes[rank].pid or 0, number)

    def kill(self) -> None:
        """Kill those that are left, and what they have started."""
        for process in self._processes:
            if process.is_alive():
                own = psutil.Process(process.pid)
                for victim in [own, *own.children(recursive=True)]:
                    victim.send_signal(signal.SIGKILL)
        self.wait()


def run_ranks(world_size: int, work: Callable[..., object], *arguments: object) -> None:
    """Run a function in every process of a job, as `Ranks` does, and wait for all.

    Raises:
        RuntimeError: A process failed; the message has its traceback.
    """
    ranks = Ranks(world_size, work, *arguments)
    if failed := [rank for rank, code in enumerate(ranks.wait()) if code]:
        raise RuntimeError(f"ranks {failed} of {world_size} failed\n{ranks.problem()}")


def _rank(
    rank: int,
    world_size: int,
    port: int,
    output: Path | None,
    problems: "SimpleQueue[str]",
    work: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
    )
    if output is not None:
        with open(output, "ab") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)
    try:
        work(*arguments)
    except Exception:
        problems.put(f"rank {rank}:\n{traceback.format_exc()}")
        raise
