"""Restores a training from a checkpoint, as if it had never stopped."""

import io
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state

from components.errors import StageError
from components.model.checkpoint.sharded import load_sharded
from components.model.distributed import seed_everything
from components.model.vlm import VisionLanguageModel
from components.storage.volume import read_bytes
from components.training.checkpoint.contents import (
    TENSORS_FOLDER,
    CheckpointFacts,
    loader_name,
    random_name,
    read_facts,
    trained_parameters,
    training_state,
)
from components.training.optimizer import MasterWeightAdamW


def load_checkpoint(
    path: Path, model: VisionLanguageModel, optimizer: MasterWeightAdamW, *, start: str, seed: int
) -> tuple[CheckpointFacts, list[bytes]]:
    """Restore what trains, the optimizer and the random state in place. Every rank calls this.

    With another number of data-parallel ranks the saved random states fit nobody: all are seeded anew. At another
    tensor-parallel size this holds for the generators of split activations alone.

    Args:
        path: The checkpoint.
        model: The model, its frozen parts filled from the starting model.
        optimizer: Its optimizer.
        start: Identity of the starting model.
        seed: The run's seed.

    Returns:
        What the checkpoint says of itself, and the loader states of all data-parallel ranks that there were, in their order.

    Raises:
        InputError: The tensors are damaged or don't fit the model.
        StageError: A part is missing, the volume fails, or the run started from another model.
    """
    facts = read_facts(path)
    if facts.model != start:
        raise StageError(
            f"The training checkpoint {path} belongs to a run that started from {facts.model}, this one starts from "
            f"{start}: the frozen parts would not fit. Give the same model, or another output folder."
        )
    loader_states = [_read(path / loader_name(rank)) for rank in range(facts.data_parallel)]
    state = load_sharded(training_state(model, optimizer), path / TENSORS_FOLDER)
    _fill_trained(model, state["model"])
    optimizer.load_state_dict(state["optimizer"])
    seed_everything(seed + facts.counters.step)
    if facts.data_parallel == parallel_state.get_data_parallel_world_size():
        same_split = facts.tensor_parallel == parallel_state.get_tensor_model_parallel_world_size()
        tensor_rank = parallel_state.get_tensor_model_parallel_rank() if same_split else 0
        name = random_name(parallel_state.get_data_parallel_rank(), tensor_rank)
        _restore_random_state(torch.load(io.BytesIO(_read(path / name)), weights_only=True))
    return facts, loader_states


def load_trained(path: Path, model: VisionLanguageModel) -> None:
    """Fill what trains from a checkpoint, without the optimizer's state. Every rank calls this."""
    state = load_sharded({"model": trained_parameters(model)}, path / TENSORS_FOLDER, part_only=True)
    _fill_trained(model, state["model"])


def _fill_trained(model: VisionLanguageModel, loaded: dict[str, torch.Tensor]) -> None:
    """Copy loaded tensors into the parameters that train."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(loaded[name])


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StageError(f"The training checkpoint {path.parent} is not whole: {path.name} is missing.") from error


def _restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
