"""Process groups: the same code in one plain process, under torchrun on CPU (gloo), and on GPUs (nccl)."""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from megatron.core import parallel_state

from components.device import DEVICE_VARIABLE
from components.errors import ConfigurationError, StageError, VlmError

_DEFAULT_TIMEOUT_S = 1800.0
_Result = TypeVar("_Result")
_SEED_STEP_PER_DATA_RANK = 100  # megatron's own distance between the seeds of data-parallel ranks


@dataclass(frozen=True)
class ParallelState:
    """Where this process stands.

    Attributes:
        rank: Global rank.
        world_size: Number of processes.
        local_rank: Rank within the machine.
        tensor_parallel: Tensor-parallel size.
        tensor_rank: Rank within the tensor-parallel group.
        data_parallel: Data-parallel size.
        data_rank: Rank within the data-parallel group.
        device: Where this process computes.
    """

    rank: int
    world_size: int
    local_rank: int
    tensor_parallel: int
    tensor_rank: int
    data_parallel: int
    data_rank: int
    device: torch.device


def initialize(
    tensor_parallel: int = 1, *, device: str = "auto", timeout_s: float = _DEFAULT_TIMEOUT_S
) -> ParallelState:
    """Set up torch.distributed and megatron-core's process groups.

    Under torchrun (`RANK` and `WORLD_SIZE` set) all its processes take part; otherwise this process alone, without
    any port or file.

    Args:
        tensor_parallel: Tensor-parallel size; the remaining factor of the world size is data parallel.
        device: "cpu", "cuda", or "auto": what `VLM_DEVICE` says, else CUDA where there is a GPU. Pods that were given GPUs
            have it at "cuda": a driver that PyTorch can't use ends them, instead of a training on CPU cores.
        timeout_s: Seconds after which a hanging collective fails.

    Returns:
        This process's place.

    Raises:
        ConfigurationError: The world size is no multiple of `tensor_parallel`, or "cuda" is asked for without a GPU.
    """
    under_torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    world_size = int(os.environ["WORLD_SIZE"]) if under_torchrun else 1
    local_rank = int(os.environ.get("LOCAL_RANK", "0")) if under_torchrun else 0
    if tensor_parallel < 1 or world_size % tensor_parallel:
        raise ConfigurationError(
            f"tensor_parallel is {tensor_parallel}, but {world_size} processes were started: their number must be a "
            "multiple of tensor_parallel."
        )
    place = _device(device, local_rank)
    timeout = datetime.timedelta(seconds=timeout_s)
    if not torch.distributed.is_initialized():
        backend = "nccl" if place.type == "cuda" else "gloo"
        if under_torchrun:
            torch.distributed.init_process_group(backend, timeout=timeout)
        else:
            store = torch.distributed.HashStore()  # type: ignore[attr-defined]
            torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tensor_parallel)
    return ParallelState(
        rank=torch.distributed.get_rank(),
        world_size=world_size,
        local_rank=local_rank,
        tensor_parallel=tensor_parallel,
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        data_parallel=parallel_state.get_data_parallel_world_size(),
        data_rank=parallel_state.get_data_parallel_rank(),
        device=place,
    )


def seed_everything(seed: int) -> None:
    """Seed torch's generators: dropout is equal on tensor-parallel ranks and differs between data-parallel ranks.

    One generator serves the dropout of activations that every tensor-parallel rank holds whole; attention draws from
    `numbers_of_this_rank`.
    """
    own_seed = seed + _SEED_STEP_PER_DATA_RANK * parallel_state.get_data_parallel_rank()
    torch.manual_seed(own_seed)


@contextlib.contextmanager
def numbers_of_this_rank(device: torch.device) -> Iterator[None]:
    """Draw other random numbers than the other tensor-parallel ranks within the block, for what is split over them.

    Their seed is drawn from the generator that all ranks share, so that there is no further state to save.

    Args:
        device: Where the numbers are drawn.
    """
    if parallel_state.get_tensor_model_parallel_world_size() == 1:
        yield
        return
    seed = int(torch.randint(2**62, ())) + parallel_state.get_tensor_model_parallel_rank()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def on_first_rank(action: Callable[[], _Result]) -> _Result:
    """Return to all ranks what `action` returns on the first; every rank calls this.

    Raises:
        StageError: What the first rank met, on the others. There it is raised as it is.
    """
    return _on_ranks(action, first_alone=True)[0]


def on_every_rank(action: Callable[[], _Result]) -> list[_Result]:
    """Return to all ranks what `action` returns on each; every rank calls this.

    A rank that fails does not leave the others waiting in a collective until it times out.

    Raises:
        StageError: What other ranks met. A rank that has failed itself raises its own error as it is.
    """
    return _on_ranks(action, first_alone=False)


def gathered(part: torch.Tensor) -> torch.Tensor:
    """Put the parts of all tensor-parallel ranks together; every rank calls this.

    megatron-core's own function allocates on a GPU whatever the device.

    Args:
        part: This rank's part, [..., width / tensor-parallel size].

    Returns:
        [..., width] on every rank. The gradient of a part is the whole's, cut: the ranks' gradients of the whole are the same.
    """
    if parallel_state.get_tensor_model_parallel_world_size() == 1:
        return part
    whole: torch.Tensor = _Gathered.apply(part)
    return whole


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, part: torch.Tensor) -> torch.Tensor:
        group = parallel_state.get_tensor_model_parallel_group()
        own = part.contiguous()
        parts = [torch.empty_like(own) for _ in range(group.size())]
        torch.distributed.all_gather(parts, own, group=group)
        return torch.cat(parts, dim=-1)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        group = parallel_state.get_tensor_model_parallel_group()
        return gradient.chunk(group.size(), dim=-1)[group.rank()].contiguous()


def make_repeatable(device: torch.device) -> None:
    """Let a GPU add in a fixed order, so that a run that goes on gives the bits of one that was never stopped.

    An operation that can't is an error from here on. CPUs have nothing of the kind.
    """
    if device.type != "cuda":
        return
    # cuBLAS chooses its kernels by the workspace that it finds: two of 4 MB for every stream, says NVIDIA.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a write of every tensor


def destroy() -> None:
    """Take the process groups down; nothing happens if there are none."""
    parallel_state.destroy_model_parallel()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def single_process() -> Iterator[ParallelState]:
    """Provide process groups for this process alone, on the CPU, and take them down again."""
    parallel = initialize(1, device="cpu")
    try:
        yield parallel
    finally:
        destroy()


def _on_ranks(action: Callable[[], _Result], *, first_alone: bool) -> list[_Result]:
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    results: list[Any] = [None] * world_size
    failure: Exception | None = None
    own: tuple[_Result | None, str] = (None, "")
    if rank == 0 or not first_alone:
        try:
            own = (action(), "")
        except Exception as error:
            failure = error
            own = (None, str(error) if isinstance(error, VlmError | OSError) else repr(error))
    if first_alone:
        results = [own]
        torch.distributed.broadcast_object_list(results, src=0)
    else:
        torch.distributed.all_gather_object(results, own)
    if failure is not None:
        raise failure
    failures = [f"rank {number}: {text}" for number, (_, text) in enumerate(results) if text]
    if failures:
        raise StageError("; ".join(failures))
    return [result for result, _ in results]


def _device(device: str, local_rank: int) -> torch.device:
    if device == "auto":
        device = os.environ.get(DEVICE_VARIABLE, "auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return torch.device("cpu")
    if device != "cuda":
        raise ConfigurationError(f'device is {device!r}; it must be "auto", "cpu" or "cuda".')
    if not torch.cuda.is_available():
        raise ConfigurationError(
            'device is "cuda", but this machine has no GPU that PyTorch can use: `vlm doctor` says what it sees. An older driver '
            "than PyTorch's CUDA needs is a common reason."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
