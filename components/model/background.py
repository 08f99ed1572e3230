"""Distributed checkpoints whose files are written while the model goes on changing."""

from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.strategies.base import SaveShardedStrategy
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, WriteItem
from torch.distributed.checkpoint.storage import WriteResult


class HostBuffers:
    """Host memory that one save after the other is copied to, page-locked where there is a GPU.

    It is as large as what this rank writes, and stays: allocating page-locked memory takes longer than copying to it.
    """

    def __init__(self) -> None:
        self._buffers: dict[MetadataIndex, torch.Tensor] = {}

    def copy(self, index: MetadataIndex, tensor: torch.Tensor) -> torch.Tensor:
        """Begin to copy a tensor and return its buffer, filled once the current CUDA stream has got there."""
        buffer = self._buffers.get(index)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[index] = buffer
        return buffer.copy_(tensor.detach(), non_blocking=True)


class BackgroundWrite(SaveShardedStrategy):
    """Writes one checkpoint in PyTorch's distributed format, in three moves.

    `save` (called by `save_sharded` on all ranks) plans and copies: after it the model may change. `write` writes this
    rank's files, in any thread, without talking to other ranks. `finish` writes the metadata when all ranks are done.

    The thread that writes belongs to the training process, so it dies with it: no helper process can outlive a killed
    run and write into the folder that the next one uses. PyTorch's serialisation and the disk leave Python's lock alone.

    Args:
        buffers: Where the copies go; what an unfinished write still needs must not be in them. None for no copies: the
            model must not change then before `write` is done, and host memory for one tensor suffices.
    """

    def __init__(self, buffers: HostBuffers | None) -> None:
        super().__init__("torch_dist", 1)
        self._buffers = buffers
        self._writer: FileSystemWriter
        self._planner: _CopiedPlanner
        self._plan: SavePlan
        self._metadata: Metadata

    @property
    def can_handle_sharded_objects(self) -> bool:
        """Part of megatron's interface."""
        return True

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> None:
        """Agree with the other ranks who writes what, and copy this rank's part to host memory."""
        by_key, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, keep_only_main_replica=True)
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._planner = _CopiedPlanner(flatten_state_dict=False)
        self._planner.set_up_planner(mcore_to_pyt_state_dict(by_key, False), is_coordinator=rank == 0)
        # One thread: torch's writer loses the errors of further ones.
        self._writer = FileSystemWriter(checkpoint_dir, thread_count=1, per_thread_copy_ahead=0)
        self._writer.set_up_storage_writer(rank == 0)
        plans: list[Any] = [None] * world_size
        torch.distributed.all_gather_object(plans, self._writer.prepare_local_plan(self._planner.create_local_plan()))
        plans, self._metadata = self._planner.create_global_plan(plans)
        self._plan = self._planner.finish_plan(self._writer.prepare_global_plan(plans)[rank])
        if self._buffers is not None:
            self._planner.copy(self._plan, self._buffers)

    def write(self) -> list[WriteResult]:
        """Write this rank's files and wait until the disk has them.

        Returns:
            Where each tensor is, for `finish`.

        Raises:
            OSError: The disk is full, for example.
        """
        try:
            written = self._writer.write_data(self._plan, self._planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch's archive complains of what the disk's refusal left
                raise error.__context__ from None
            raise
        written.wait()
        results: list[WriteResult] = written.value()
        return results

    def finish(self, results: list[list[WriteResult]]) -> None:
        """Write the metadata; the first rank calls it with what `write` returned on all ranks."""
        self._writer.finish(self._metadata, results)


class _CopiedPlanner(MCoreSavePlanner):
    """Answers the writer's questions for data with copies, if it has them."""

    _copies: dict[MetadataIndex, Any] | None = None

    def copy(self, plan: SavePlan, buffers: HostBuffers) -> None:
        """Copy everything that a plan asks for, and let go of the originals."""
        copies: dict[MetadataIndex, Any] = {}
        for item in plan.items:
            data = super().resolve_data(item)
            copies[item.index] = buffers.copy(item.index, data) if isinstance(data, torch.Tensor) else data
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        self._copies = copies
        self.state_dict: dict[str, Any] = {}

    def resolve_data(self, write_item: WriteItem) -> Any:
        """Return the copy, or the data as they are."""
        return super().resolve_data(write_item) if self._copies is None else self._copies[write_item.index]
