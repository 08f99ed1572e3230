"""What a training checkpoint holds: everything that a killed run needs to go on as if nothing had happened.

The sharded weights and optimizer state of what trains, the random-number and loader state of each data-parallel rank, and
the counters. Frozen parts are those of the starting model and are not written again: a pretraining checkpoint of the 7B
recipe has 1 GB instead of 16. The starting model's identity is kept with it, and another one is refused.
"""

import io
from pathlib import Path

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory, is_main_replica
from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import StageError
from components.model.checkpoint.sharded import ShardedStateDict, sharded_parameters
from components.model.vlm import VisionLanguageModel
from components.storage.volume import read_bytes
from components.training.checkpoint.layout import FACTS_NAME
from components.training.checkpoint.retention import Mark
from components.training.optimizer import MasterWeightAdamW

TENSORS_FOLDER = "checkpoint"


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
        StageError: It is missing or damaged, or the volume fails; see `components.storage.volume`.
    """
    path = checkpoint / FACTS_NAME
    try:
        return CheckpointFacts.model_validate_json(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError, ValidationError) as error:
        raise StageError(f"{path} is missing or damaged: {error}. Delete {checkpoint} to do without it.") from error


def training_state(model: VisionLanguageModel, optimizer: MasterWeightAdamW) -> ShardedStateDict:
    """Return the sharded state of what trains and of its optimizer."""
    trained = trained_parameters(model)
    return {"model": trained, "optimizer": optimizer.sharded_state_dict(trained)}


def trained_parameters(model: VisionLanguageModel) -> ShardedStateDict:
    """Return the sharded state of the parameters that train."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in sharded_parameters(model).items() if name in trained}


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
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()
