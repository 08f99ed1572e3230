"""What a training checkpoint holds: everything that a killed run needs to go on as if nothing had happened.

The sharded weights and optimizer state of what trains, the random-number and loader state of each data-parallel rank, and
the counters. Frozen parts are those of the starting model and are not written again: a pretraining checkpoint of the 7B
recipe has 1 GB instead of 16. The starting model's identity is kept with it, and another one is refused.
"""

import io
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory, is_main_replica
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import StageError
from components.model.checkpoint import ShardedStateDict, load_sharded, sharded_parameters
from components.model.distributed import seed_everything
from components.model.vlm import VisionLanguageModel
from components.training.layout import FACTS_NAME
from components.training.optimizer import MasterWeightAdamW
from components.training.retention import Mark

TENSORS_FOLDER = "checkpoint"
_TRACKED = "tracked."


class Counters(BaseModel):
    """How far training is, summed over all ranks.

    Attributes:
        step: Finished optimizer steps.
        samples: Samples consumed.
        tokens: Tokens consumed, image tokens included.
        fingerprint: Checksum of the keys of all samples consumed, step by step.
    """

    model_config = ConfigDict(extra="forbid")

    step: int = 0
    samples: int = 0
    tokens: int = 0
    fingerprint: int = 0


class CheckpointFacts(BaseModel):
    """What a checkpoint says of itself.

    Attributes:
        counters: Progress after its step.
        data_parallel: Number of data-parallel ranks that wrote it.
        tensor_parallel: Tensor-parallel size that wrote it.
        model: Identity of the model that training started from, whose frozen parts belong to the checkpoint.
        validation_loss: Validation loss at its step, None where it was not measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    counters: Counters
    data_parallel: int
    tensor_parallel: int
    model: str
    validation_loss: float | None = None

    @property
    def mark(self) -> Mark:
        """What decides whether it stays."""
        return Mark(self.counters.step, self.validation_loss)


def read_facts(checkpoint: Path) -> CheckpointFacts:
    """Return what a checkpoint says of itself.

    Raises:
        StageError: It can't be read.
    """
    path = checkpoint / FACTS_NAME
    try:
        return CheckpointFacts.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise StageError(f"{path} can't be read: {error}. Delete {checkpoint} to do without it.") from error


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
        StageError: A part can't be read, or the run started from another model.
    """
    facts = read_facts(path)
    if facts.model != start:
        raise StageError(
            f"The training checkpoint {path} belongs to a run that started from {facts.model}, this one starts from "
            f"{start}: the frozen parts would not fit. Give the same model, or another output folder."
        )
    try:
        loader_states = [(path / loader_name(rank)).read_bytes() for rank in range(facts.data_parallel)]
    except OSError as error:
        raise StageError(f"The training checkpoint {path} can't be read: {error}.") from error
    state = load_sharded(training_state(model, optimizer), path / TENSORS_FOLDER)
    fill_trained(model, state["model"])
    optimizer.load_state_dict(state["optimizer"])
    seed_everything(seed + facts.counters.step)
    if facts.data_parallel == parallel_state.get_data_parallel_world_size():
        same_split = facts.tensor_parallel == parallel_state.get_tensor_model_parallel_world_size()
        tensor_rank = parallel_state.get_tensor_model_parallel_rank() if same_split else 0
        name = random_name(parallel_state.get_data_parallel_rank(), tensor_rank)
        _restore_random_state(torch.load(path / name, weights_only=True), split=same_split)
    return facts, loader_states


def load_trained(path: Path, model: VisionLanguageModel) -> None:
    """Fill what trains from a checkpoint, without the optimizer's state. Every rank calls this."""
    state = load_sharded({"model": trained_parameters(model)}, path / TENSORS_FOLDER, part_only=True)
    fill_trained(model, state["model"])


def training_state(model: VisionLanguageModel, optimizer: MasterWeightAdamW) -> ShardedStateDict:
    """Return the sharded state of what trains and of its optimizer."""
    trained = trained_parameters(model)
    return {"model": trained, "optimizer": optimizer.sharded_state_dict(trained)}


def trained_parameters(model: VisionLanguageModel) -> ShardedStateDict:
    """Return the sharded state of the parameters that train."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in sharded_parameters(model).items() if name in trained}


def fill_trained(model: VisionLanguageModel, loaded: dict[str, torch.Tensor]) -> None:
    """Copy loaded tensors into the parameters that train."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(loaded[name])


def bytes_to_write(state: ShardedStateDict) -> int:
    """Return the bytes of tensors that this rank writes of a state."""
    return sum(
        value.data.nbytes
        for value in nested_values(state)
        if isinstance(value, ShardedTensor | ShardedTensorFactory) and is_main_replica(value.replica_id)
    )


def random_name(data_rank: int, tensor_rank: int) -> str:
    """Return the file of a rank's random-number state."""
    return f"random_dp{data_rank}_tp{tensor_rank}.pt"


def loader_name(data_rank: int) -> str:
    """Return the file of a data-parallel rank's loader state."""
    return f"loader_dp{data_rank}.bin"


def random_state() -> bytes:
    """Return the state of this process's random-number generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
        # Transformer Engine's attention dropout draws from megatron's own generators.
        tracked = get_cuda_rng_tracker().get_states()
        state |= {f"{_TRACKED}{name}": generator for name, generator in tracked.items()}
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def _restore_random_state(state: dict[str, Any], *, split: bool) -> None:
    """Restore the generators; those of split activations only where the split is the same."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
        if split:
            tracked = {name.removeprefix(_TRACKED): value for name, value in state.items() if name.startswith(_TRACKED)}
            get_cuda_rng_tracker().set_states(tracked)
