"""Distributed checkpoints of megatron-core: written at one tensor-parallel size, read at any other."""

import pickle
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.validation import StrictHandling
from megatron.core.msc_utils import MultiStorageClientFeature
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from components.errors import InputError, StageError
from components.model.checkpoint.writer import CheckpointWriter
from components.model.distributed import on_first_rank
from components.storage.volume import read_patiently

ShardedStateDict = dict[str, Any]
PretrainedPart = Literal["language", "vision"]

PART_PREFIXES: dict[PretrainedPart, str] = {"language": "language_model.", "vision": "vision_model."}

_FINISHED_NAME = "metadata.json"  # megatron-core's, written last

# Checkpoints lie in folders. Where energon has brought NVIDIA's client for object stores, megatron-core would read them through
# it, which meters every read of a few bytes: a third of the time that a small model's loading takes.
MultiStorageClientFeature.disable()

DAMAGE = (
    CheckpointException,
    CheckpointingException,
    FileNotFoundError,
    NotADirectoryError,
    EOFError,
    RuntimeError,
    KeyError,
    ValueError,
    pickle.UnpicklingError,
)
"""What reading a damaged checkpoint raises."""


def save_model(model: nn.Module, folder: Path) -> None:
    """Write the parameters of a model as a distributed checkpoint; all ranks call it.

    Args:
        model: A megatron module, or a wrapper with `sharded_state_dict`.
        folder: The checkpoint folder itself (`<model folder>/checkpoint`).

    Raises:
        StageError: Writing failed.
    """
    save_sharded(sharded_parameters(model), folder)


def load_model(model: nn.Module, folder: Path) -> None:
    """Fill the parameters of a model from a distributed checkpoint; all ranks call it.

    The checkpoint must hold exactly the model's parameters. It may have been written at another tensor-parallel size
    and in another type; values are converted to the model's type.

    Args:
        model: The model, built for this rank.
        folder: The checkpoint folder itself.

    Raises:
        InputError: The folder is no checkpoint, is damaged, or does not fit the model (names and shapes are listed).
    """
    fill_parameters(model, load_sharded(sharded_parameters(model), folder))


def sharded_parameters(model: nn.Module, prefix: str = "") -> ShardedStateDict:
    """Return a megatron module's sharded state dict without Transformer Engine's extra state.

    That state exists for FP8 training only, which this project does not do; leaving it out makes one checkpoint serve
    Transformer Engine's layers and plain ones.
    """
    sharded = model.sharded_state_dict(prefix=prefix)  # type: ignore[operator]
    kept = {name: value for name, value in sharded.items() if not name.endswith("_extra_state")}
    for value in kept.values():
        if isinstance(value, ShardedTensor):
            # megatron-core lets vocabularies differ in size and fills up silently; here a size is part of the model.
            value.allow_shape_mismatch = False
    return kept


def save_sharded(state: ShardedStateDict, folder: Path, writer: CheckpointWriter | None = None) -> None:
    """Write any sharded state dict (a model's, an optimizer's); all ranks call it.

    Args:
        state: Sharded tensors and objects, and common values that are equal on all ranks.
        folder: A new or empty folder; the first rank clears what an interrupted save has left.
        writer: Another than the one that takes the tensors of `state` and returns when all is written.

    Raises:
        StageError: Writing failed.
        VlmError: What the writer met where it gets its data.
    """
    try:
        on_first_rank(lambda: _make_empty(folder))
        dist_checkpointing.save(state, str(folder), sharded_strategy=writer or CheckpointWriter())
    except (OSError, CheckpointingException) as error:
        raise StageError(
            f"The checkpoint {folder} could not be written ({_free_bytes(folder)} bytes are free there): {error}"
        ) from error


def load_sharded(state: ShardedStateDict, folder: Path, *, part_only: bool = False) -> dict[str, Any]:
    """Read a checkpoint into the layout of `state`, strictly; all ranks call it.

    Args:
        state: The sharded state dict of freshly built objects: says which part this rank needs.
        folder: The checkpoint folder itself.
        part_only: `state` asks for some of the stored tensors; the rest is not read.

    Returns:
        The state dict with plain tensors.

    Raises:
        InputError: The folder is no checkpoint, is damaged, or its names or shapes differ from `state`.
        StageError: The volume fails; see `components.storage.volume`.
    """
    check_finished(folder)
    try:
        return read_patiently(lambda: _load(state, folder, part_only=part_only), folder)
    except DAMAGE as error:
        raise InputError(f"The checkpoint {folder} is damaged or does not fit the model: {error}") from error


def stored_tensors(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return name and whole shape of every tensor of a checkpoint, without reading any.

    Raises:
        InputError: The folder is no checkpoint, or its metadata is damaged.
        StageError: The volume fails; see `components.storage.volume`.
    """
    return {name: tuple(tensor.global_shape) for name, tensor in _stored(folder).items()}


def stored_dtypes(folder: Path) -> set[torch.dtype]:
    """Return the types of a checkpoint's tensors, without reading any.

    Raises:
        InputError: As `stored_tensors`.
        StageError: Likewise.
    """
    return {tensor.dtype for tensor in _stored(folder).values()}


def fill_parameters(module: nn.Module, loaded: dict[str, Any]) -> None:
    """Copy loaded tensors into a module's parameters, strictly.

    Args:
        module: The module.
        loaded: Name to tensor, as `load_sharded` returned it.

    Raises:
        InputError: A parameter is missing, or a tensor has no parameter.
    """
    result = module.load_state_dict(loaded, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith("_extra_state")]
    unexpected = [name for name in result.unexpected_keys if not name.endswith("_extra_state")]
    if missing or unexpected:
        raise InputError(f"The checkpoint does not fit the model: missing {missing}, unexpected {unexpected}.")


def _load(state: ShardedStateDict, folder: Path, *, part_only: bool) -> dict[str, Any]:
    """Read once.

    Raises:
        OSError: A file can't be read. Either this rank has not talked to the others yet, or all ranks meet the same error:
            each may call this again.
    """
    strict = StrictHandling.ASSUME_OK_UNEXPECTED if part_only else StrictHandling.RAISE_ALL
    try:
        loaded: dict[str, Any] = dist_checkpointing.load(
            state, folder, strict=strict, validate_access_integrity=not part_only
        )
    except CheckpointException as error:
        failures = [failure for _, (failure, _) in sorted(error.failures.items())]
        if isinstance(failures[0], OSError) and all(isinstance(failure, OSError) for failure in failures):
            raise failures[0] from error
        raise
    return loaded


def _stored(folder: Path) -> dict[str, ShardedTensor]:
    """Return the description of every stored tensor."""
    check_finished(folder)
    try:
        stored: dict[str, ShardedTensor] = read_patiently(
            lambda: dist_checkpointing.serialization.load_tensors_metadata(str(folder)), folder
        )
    except DAMAGE as error:
        raise InputError(f"The metadata of the checkpoint {folder} is damaged: {error}") from error
    return stored


def check_finished(folder: Path) -> None:
    """Check that a folder is a checkpoint that was written to its end.

    Raises:
        InputError: It is not.
        StageError: The volume fails; see `components.storage.volume`.
    """
    path = folder / _FINISHED_NAME
    try:
        read_patiently(path.stat, path)  # megatron-core takes any error for a missing file
        finished = read_patiently(lambda: dist_checkpointing.check_is_distributed_checkpoint(str(folder)), path)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        finished = False
    if not finished:
        raise InputError(
            f"{folder} is not a finished megatron-core checkpoint: {_FINISHED_NAME} is missing or of another kind."
        )


def _make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _free_bytes(folder: Path) -> int:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free
