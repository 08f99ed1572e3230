"""The one writer of checkpoints: megatron-core's distributed format, by PyTorch's own file writer.

Models are written at once (`CheckpointWriter`), trainings go on while their files are written (`BackgroundWriter`), and
models larger than memory are asked for tensor by tensor (another planner). megatron-core's own writer is left out: it collects all
tensors first, forks, hands results through a manager process that imports the main module again, and calls CUDA on
machines that have none.
"""

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

from components.model.distributed import on_every_rank, on_first_rank
from components.storage.atomic import flush_to_disk

_METADATA_NAME = ".metadata"  # PyTorch's: which tensor is where


class CheckpointWriter(SaveShardedStrategy):
    """Writes one checkpoint; `save_sharded` calls `save` on all ranks.

    A save has three moves, which others may make one by one: `plan` together, `write` each rank alone, `finish` the first.

    Args:
        planner: Gives the writer its data; None for the tensors of the state themselves.
        file_per_tensor: A file for each tensor instead of one for each rank. PyTorch's writer holds on to the tensors of a file
            until it is closed.
    """

    def __init__(self, planner: MCoreSavePlanner | None = None, *, file_per_tensor: bool = False) -> None:
        super().__init__("torch_dist", 1)
        self._planner = planner or MCoreSavePlanner(flatten_state_dict=False)
        self._file_per_tensor = file_per_tensor
        self._folder: Path
        self._writer: FileSystemWriter
        self._plan: SavePlan
        self._metadata: Metadata

    @property
    def can_handle_sharded_objects(self) -> bool:
        """Part of megatron's interface."""
        return True

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> None:
        """Write everything before it returns.

        Raises:
            OSError: The disk is full, for example.
            StageError: Another rank could not write its part.
            VlmError: What the planner met where it gets its data.
        """
        self.plan(sharded_state_dict, Path(checkpoint_dir))
        results = on_every_rank(self.write)
        on_first_rank(lambda: self.finish(results))

    def plan(self, sharded_state_dict: dict[str, Any], folder: Path) -> None:
        """Agree with the other ranks who writes what."""
        by_key, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, keep_only_main_replica=True)
        first = torch.distributed.get_rank() == 0
        self._folder = folder
        self._planner.set_up_planner(mcore_to_pyt_state_dict(by_key, False), is_coordinator=first)
        # One thread: torch's writer loses the errors of further ones. `write` waits for the disk, once for all files.
        self._writer = FileSystemWriter(
            folder,
            single_file_per_rank=not self._file_per_tensor,
            sync_files=False,
            thread_count=1,
            per_thread_copy_ahead=0,
        )
        self._writer.set_up_storage_writer(first)
        plans: list[Any] = on_every_rank(lambda: self._writer.prepare_local_plan(self._planner.create_local_plan()))
        plans, self._metadata = self._planner.create_global_plan(plans)
        own = self._writer.prepare_global_plan(plans)[torch.distributed.get_rank()]
        self._plan = self._planner.finish_plan(own)

    def write(self) -> list[WriteResult]:
        """Write this rank's files and wait until the disk has them; in any thread, without talking to other ranks.

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
        for name in sorted({result.storage_data.relative_path for result in results}):
            flush_to_disk(self._folder / name)
        return results

    def finish(self, results: list[list[WriteResult]]) -> None:
        """Write the metadata; the first rank calls it with what `write` returned on all ranks."""
        self._writer.finish(self._metadata, results)
        flush_to_disk(self._folder / _METADATA_NAME)


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


class BackgroundWriter(CheckpointWriter):
    """Writes one checkpoint while the model goes on changing.

    `save` plans and copies: after it the model may change. The caller makes the other moves: `write` in a thread, `finish` when all
    ranks are done.

    The thread that writes belongs to the training process, so it dies with it: no helper process can outlive a killed
    run and write into the folder that the next one uses. PyTorch's serialisation and the disk leave Python's lock alone.

    Args:
        buffers: Where the copies go; what an unfinished write still needs must not be in them. None for no copies: the
            model must not change then before `write` is done, and host memory for one tensor suffices.
    """

    def __init__(self, buffers: HostBuffers | None) -> None:
        self._copied = _CopiedPlanner(flatten_state_dict=False)
        super().__init__(self._copied)
        self._buffers = buffers

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> None:
        """Agree with the other ranks who writes what, and copy this rank's part to host memory."""
        self.plan(sharded_state_dict, Path(checkpoint_dir))
        if self._buffers is not None:
            self._copied.copy(self._plan, self._buffers)


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
