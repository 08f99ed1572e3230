"""Models larger than memory: checkpoints written and read parameter by parameter, and layers run one at a time.

A model that is only an outline (`outlined`) has names and shapes but no memory. Conversion, combination and export work
on outlines, so that they hold a few tensors at a time, whatever the model's size.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.strategies.base import SaveShardedStrategy
from megatron.core.dist_checkpointing.strategies.torch import MCoreSavePlanner, mcore_to_pyt_state_dict
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from components.errors import InputError, VlmError
from components.model.checkpoint import load_sharded, save_sharded, sharded_parameters, stored_tensors
from components.stage.progress import Progress
from components.storage.atomic import flush_to_disk

Read = Callable[[str], Tensor]
Module = TypeVar("Module", bound=nn.Module)

_MB = 1_000_000


def outlined(build: Callable[[], Module]) -> Module:
    """Build a module whose parameters have names, shapes and types but no memory ("meta" tensors)."""
    with torch.device("meta"):
        return build()


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
    save_sharded(state, folder, strategy=_StreamingStrategy(pieces, read))


def with_progress(read: Read, outline: nn.Module, activity: str, progress: Progress) -> Read:
    """Return `read`, reporting how many megabytes of the outline's parameters it has given.

    Args:
        read: Name of a parameter to its value.
        outline: The module that is written; says how much there is.
        activity: What is being done ("converting").
        progress: Where it is reported.
    """
    total = sum(parameter.nbytes for parameter in outline.parameters())
    progress.start(activity, total // _MB, "MB")
    done = 0

    def reporting(name: str) -> Tensor:
        nonlocal done
        value = read(name)
        done += value.nbytes
        progress.update(done // _MB)
        return value

    return reporting


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
        self._folder = folder
        self._parameters = dict(outline.named_parameters())
        self._pieces: dict[str, list[_Piece]] = {name: [] for name in self._parameters}
        for piece in _stored_pieces(outline, prefix):
            self._pieces[piece.parameter].append(piece)
        _check_stored(folder, [piece for pieces in self._pieces.values() for piece in pieces])

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
        request = {str(piece.offset): piece.sharded(piece.within(value)) for piece in self._pieces[name]}
        load_sharded(request, self._folder, part_only=True)  # fills the tensors of the request, which are views
        return value


@contextlib.contextmanager
def layers_streamed(
    module: Module, layers: nn.ModuleList, read: Read, entry: Callable[[Any], nn.Module] = lambda layer: layer
) -> Iterator[Module]:
    """Let a module without memory run: the layers hold their parameters only from their turn to that of the next.

    Args:
        module: The outline; everything outside `layers` is filled for the whole block.
        layers: The repeated layers within the module, run one after the other.
        read: Name of a parameter within `module` to its value.
        entry: The part of a layer that is called first, where layers are not called as a whole (decoding).

    Yields:
        The module, ready for a forward pass without gradients.
    """
    names = {id(child): name for name, child in module.named_modules()}
    held = {f"{names[id(layer)]}." for layer in layers}
    outside = [
        name for name, _ in module.named_parameters() if not any(name.startswith(layer_name) for layer_name in held)
    ]
    module.load_state_dict({name: read(name) for name in outside}, strict=False, assign=True)
    filled: list[nn.Module] = []

    def fill(layer: nn.Module) -> None:
        empty()
        prefix = names[id(layer)]
        values = {name: read(f"{prefix}.{name}") for name, _ in layer.named_parameters()}
        layer.load_state_dict(values, strict=False, assign=True)
        filled.append(layer)

    def empty() -> None:
        while filled:
            for child in filled.pop().modules():
                for name, parameter in child.named_parameters(recurse=False):
                    setattr(child, name, nn.Parameter(parameter.to("meta"), requires_grad=False))

    handles = [entry(layer).register_forward_pre_hook(lambda *_, layer=layer: fill(layer)) for layer in layers]
    try:
        with torch.no_grad():
            yield module
    finally:
        empty()
        for handle in handles:
            handle.remove()


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


class _StreamingStrategy(SaveShardedStrategy):
    """Writes PyTorch's distributed format with torch's own writer, which asks for one tensor after the other.

    megatron-core's writer collects all tensors first.

    Args:
        pieces: All blocks of the checkpoint.
        read: Name to value.
    """

    def __init__(self, pieces: Sequence[_Piece], read: Read) -> None:
        super().__init__("torch_dist", 1)
        self.pieces = pieces
        self.read = read

    @property
    def can_handle_sharded_objects(self) -> bool:
        """Part of megatron's interface: there are no objects here."""
        return True

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> None:
        """Write all blocks."""
        by_key: dict[str, list[ShardedTensor]] = {}
        for block in sharded_state_dict.values():
            by_key.setdefault(block.key, []).append(block)
        try:
            save_distributed(
                mcore_to_pyt_state_dict(by_key, False),
                # A file per block, since torch's writer holds on to the tensors of a file until it is closed; all of
                # them reach the disk together below, since waiting for each costs more than writing it.
                storage_writer=FileSystemWriter(checkpoint_dir, single_file_per_rank=False, sync_files=False),
                planner=_StreamingPlanner(self.pieces, self.read),
            )
        except CheckpointException as error:
            for failure, _ in error.failures.values():
                if isinstance(failure, VlmError):  # what `read` had to say, not a fault of the writing
                    raise failure from None
            raise
        for path in Path(checkpoint_dir).iterdir():
            flush_to_disk(path)


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
