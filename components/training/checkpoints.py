"""Training checkpoints: everything that a killed run needs to go on as if nothing had happened.

`<output>/training/iter_0000100/` holds the sharded model and optimizer, the random-number and loader state of each
data-parallel rank, and the counters. It is written as `iter_0000100.tmp` and renamed when all ranks are done: a folder
without the suffix is complete.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from components.errors import StageError
from components.model.checkpoint import fill_parameters, load_sharded, save_sharded, sharded_parameters
from components.model.distributed import seed_everything
from components.model.vlm import VisionLanguageModel
from components.storage.atomic import write_bytes, write_json
from components.training.optimizer import MasterWeightAdamW

_PREFIX = "iter_"
_UNFINISHED = ".tmp"
_TRACKED = "tracked."


@dataclass
class Counters:
    """How far training is, summed over all ranks.

    Attributes:
        step: Finished optimizer steps.
        samples: Samples consumed.
        tokens: Tokens consumed, image tokens included.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete training checkpoints below `folder`, oldest first."""
    found = folder.glob(f"{_PREFIX}*")
    return sorted(path for path in found if path.is_dir() and not path.name.endswith(_UNFINISHED))


def save_checkpoint(
    folder: Path,
    counters: Counters,
    model: VisionLanguageModel,
    optimizer: MasterWeightAdamW,
    loader_state: bytes | None,
    keep: int,
) -> Path:
    """Write the checkpoint of a step and remove all but the newest `keep`. Every rank calls this.

    Args:
        folder: `<output>/training`.
        counters: Progress after the step that was just finished.
        model: The model.
        optimizer: Its optimizer.
        loader_state: State of the loader on ranks that load, None on the others.
        keep: Number of checkpoints that stay.

    Returns:
        The checkpoint's folder.
    """
    final = folder / f"{_PREFIX}{counters.step:07d}"
    temporary = final.with_name(final.name + _UNFINISHED)
    rank = torch.distributed.get_rank()
    if rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)  # a broken one of the same step, stepped over when resuming
        temporary.mkdir(parents=True)
    torch.distributed.barrier()
    save_sharded(_sharded_state(model, optimizer), temporary / "checkpoint")
    data_rank = parallel_state.get_data_parallel_rank()
    if parallel_state.get_tensor_model_parallel_rank() == 0:
        torch.save(_random_state(), temporary / f"random_dp{data_rank}.pt")
        if loader_state is None:
            raise StageError(f"rank {rank} loads data but gave no loader state to save")
        write_bytes(temporary / f"loader_dp{data_rank}.bin", loader_state)
    torch.distributed.barrier()
    if rank == 0:
        facts = {**vars(counters), "data_parallel": parallel_state.get_data_parallel_world_size()}
        write_json(temporary / "counters.json", facts)
        temporary.rename(final)
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    torch.distributed.barrier()
    return final


def load_checkpoint(
    path: Path, model: VisionLanguageModel, optimizer: MasterWeightAdamW, seed: int
) -> tuple[Counters, list[bytes]]:
    """Restore model, optimizer and random state in place. Every rank calls this.

    With another number of data-parallel ranks the saved random states fit nobody: all are seeded anew.

    Args:
        path: The checkpoint.
        model: The model.
        optimizer: Its optimizer.
        seed: The run's seed.

    Returns:
        The counters, and the loader states of all data-parallel ranks that there were, in their order.

    Raises:
        StageError: A part is missing or can't be read.
    """
    try:
        facts: dict[str, int] = json.loads((path / "counters.json").read_text(encoding="utf-8"))
        data_parallel = facts.pop("data_parallel")
        loader_states = [(path / f"loader_dp{rank}.bin").read_bytes() for rank in range(data_parallel)]
    except (OSError, ValueError, KeyError) as error:
        raise StageError(
            f"The training checkpoint {path} can't be read: {error}. Delete it to resume from the one before."
        ) from error
    state = load_sharded(_sharded_state(model, optimizer), path / "checkpoint")
    fill_parameters(model, state["model"])
    optimizer.load_state_dict(state["optimizer"])
    counters = Counters(**facts)
    if data_parallel == parallel_state.get_data_parallel_world_size():
        data_rank = parallel_state.get_data_parallel_rank()
        _restore_random_state(torch.load(path / f"random_dp{data_rank}.pt", weights_only=True))
    else:
        seed_everything(seed + counters.step)
    return counters, loader_states


def _sharded_state(model: VisionLanguageModel, optimizer: MasterWeightAdamW) -> dict[str, Any]:
    model_state = sharded_parameters(model)
    return {"model": model_state, "optimizer": optimizer.sharded_state_dict(model_state)}


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
        # Transformer Engine's attention dropout draws from megatron's own generators.
        tracked = get_cuda_rng_tracker().get_states()
        state |= {f"{_TRACKED}{name}": generator for name, generator in tracked.items()}
    return state


def _restore_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
        tracked = {name.removeprefix(_TRACKED): value for name, value in state.items() if name.startswith(_TRACKED)}
        get_cuda_rng_tracker().set_states(tracked)
