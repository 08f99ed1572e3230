"""The processes of one job, as torchrun would start them: forked from a server that has imported the engine once."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue

import torch

_PROCESSES = multiprocessing.get_context("forkserver")
# Imported once, by the server that all processes are forked from: a start costs a fork, where torchrun's ranks import for seconds.
_PROCESSES.set_forkserver_preload(["components.training.trainer"])


def run_ranks(world_size: int, work: Callable[..., object], *arguments: object) -> None:
    """Run a function in every process of a job (gloo), and wait for all.

    Args:
        world_size: Number of processes.
        work: A function of a module; it sets up torch.distributed by `components.model.distributed.initialize`.
        *arguments: What it is called with; they are pickled.

    Raises:
        RuntimeError: A process failed; the message has its traceback.
    """
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    problems = _PROCESSES.SimpleQueue()
    processes = [
        _PROCESSES.Process(target=_rank, args=(rank, world_size, store.port, problems, work, arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if failed := [rank for rank, process in enumerate(processes) if process.exitcode]:
        told = [] if problems.empty() else [problems.get()]
        raise RuntimeError("\n".join([f"ranks {failed} of {world_size} failed", *told]))


def _rank(
    rank: int,
    world_size: int,
    port: int,
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
    torch.set_num_threads(1)
    try:
        work(*arguments)
    except BaseException:
        problems.put(f"rank {rank}:\n{traceback.format_exc()}")
        raise
