"""Checkpoints of models larger than memory: written and read parameter by parameter."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.strategies.torch import MCoreSavePlanner
from torch import Tensor, nn
from torch.distributed.checkpoint.planner import WriteItem

from components.errors import InputError
from components.model.checkpoint.blocks import BlockReader
from components.model.checkpoint.sharded import save_sharded, sharded_parameters, stored_tensors
from components.model.checkpoint.writer import CheckpointWriter
from components.model.streaming import Read


def save_streamed(outline: nn.Module, folder: Path, read: Read, prefix: str = "") -> None:
    """Write a distributed checkpoint, asking for one parameter at a time; for a single process.

    The files are those that `save_model` would write of the filled model, up to the division into files.

    Args:
        outline: The module, unsplit, without memory.
        folder: The checkpoint folder itself; what an interrupted run has left there is replaced.
        read: Name of a parameter to its value, of the parameter's shape and type.
        prefix: What the names in the checkpoint begin with.

    Raises:
        StageError: Writing failed.
        VlmError: Whatever `read` raises.
    """
    pieces = _stored_pieces(outline, prefix)
    state = {f"{piece.key}/{piece.offset}": piece.sharded(piece.view) for piece in pieces}
    writer = CheckpointWriter(_StreamingPlanner(pieces, read), file_per_tensor=True)
    save_sharded(state, folder, writer)


class ParameterReader:
    """Reads single parameters of a checkpoint.

    Args:
        outline: The module that the checkpoint belongs to, unsplit, without memory.
        folder: The checkpoint folder itself.
        prefix: What the names in the checkpoint begin with.

    Raises:
        InputError: The folder is no checkpoint, or does not hold exactly the module's parameters in their shapes.
    """

    def __init__(self, outline: nn.Module, folder: Path, prefix: str = "") -> None:
        self._parameters = dict(outline.named_parameters())
        self._pieces: dict[str, list[_Piece]] = {name: [] for name in self._parameters}
        for piece in _stored_pieces(outline, prefix):
            self._pieces[piece.parameter].append(piece)
        _check_stored(folder, [piece for pieces in self._pieces.values() for piece in pieces])
        self._blocks = BlockReader(folder)

    @property
    def names(self) -> list[str]:
        """Names of all parameters, in the module's order."""
        return list(self._pieces)

    def __call__(self, name: str) -> Tensor:
        """Read one parameter, in the type that the outline has.

        Raises:
            InputError: A file is missing or damaged.
        """
        value = torch.empty_like(self._parameters[name], device="cpu")
        self._blocks.fill(
            {(piece.key, piece.offset): piece.stacked(piece.within(value)) for piece in self._pieces[name]}
        )  # which are views of the value
        return value


@dataclass(frozen=True)
class _Piece:
    """What a checkpoint stores as one block: a parameter of one layer, or one half of a gated MLP's first weight.

    Attributes:
        parameter: Name of the parameter within the outline.
        view: The part of the outline's parameter that the block is; says which part of a value it is.
        key: Name of the stored tensor; layers are stacked in one.
        offset: Where the block begins in the stored tensor, in every dimension.
        global_shape: Shape of the stored tensor.
        fragmentations: Number of blocks of the stored tensor, in every dimension.
    """

    parameter: str
    view: Tensor
    key: str
    offset: tuple[int, ...]
    global_shape: tuple[int, ...]
    fragmentations: tuple[int, ...]

    def within(self, value: Tensor) -> Tensor:
        """Return the block within a value of the whole parameter, as a view."""
        return torch.as_strided(value, self.view.shape, self.view.stride(), self.view.storage_offset())

    def stacked(self, block: Tensor) -> Tensor:
        """Return a block with the dimensions of the stored tensor."""
        return block.view((1,) * (len(self.global_shape) - block.dim()) + tuple(block.shape))

    def sharded(self, block: Tensor) -> ShardedTensor:
        """Describe a block for megatron-core."""
        data = self.stacked(block.detach())
        return ShardedTensor(
            key=self.key,
            data=data,
            dtype=data.dtype,
            local_shape=tuple(data.shape),
            global_shape=self.global_shape,
            global_offset=self.offset,
            axis_fragmentations=self.fragmentations,
        )


def _stored_pieces(outline: nn.Module, prefix: str) -> list[_Piece]:
    pieces = []
    for name, value in sharded_parameters(outline, prefix).items():
        # A factory cuts its parameter into the blocks that are stored.
        for block in [value] if isinstance(value, ShardedTensor) else value.build():
            pieces.append(
                _Piece(
                    parameter=name.removeprefix(prefix),
                    view=block.data,
                    key=block.key,
                    offset=tuple(block.global_offset),
                    global_shape=tuple(block.global_shape),
                    fragmentations=tuple(block.axis_fragmentations),
                )
            )
    return pieces


def _check_stored(folder: Path, pieces: Sequence[_Piece]) -> None:
    wanted = {piece.key: piece.global_shape for piece in pieces}
    stored = stored_tensors(folder)
    problems = [f"{key} is missing" for key in sorted(wanted.keys() - stored.keys())]
    problems += [f"{key} has no place in the model" for key in sorted(stored.keys() - wanted.keys())]
    problems += [
        f"{key} has shape {list(stored[key])}, the model {list(wanted[key])}"
        for key in sorted(wanted.keys() & stored.keys())
        if stored[key] != wanted[key]
    ]
    if problems:
        raise InputError(f"The checkpoint {folder} does not fit the model: {'; '.join(problems)}.")


class _StreamingPlanner(MCoreSavePlanner):
    """Answers the writer's questions for data; a parameter that was just read is kept for its other half."""

    def __init__(self, pieces: Sequence[_Piece], read: Read) -> None:
        super().__init__(flatten_state_dict=False)
        self.pieces = {(piece.key, piece.offset): piece for piece in pieces}
        self.read = read
        self._last: tuple[str, Tensor] | None = None

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """Return the block that the writer asks for."""
        piece = self.pieces[write_item.index.fqn, tuple(write_item.index.offset or ())]
        if self._last is None or self._last[0] != piece.parameter:
            self._last = None  # freed before the next one is read
            self._last = (piece.parameter, self.read(piece.parameter).contiguous())
        return piece.stacked(piece.within(self._last[1]))
