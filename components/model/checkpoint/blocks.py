"""Blocks of stored tensors, read one by one: the checkpoint's metadata is read once, and no process group is asked."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from components.errors import InputError
from components.model.checkpoint.sharded import DAMAGE, check_finished
from components.storage.volume import read_patiently

Place = tuple[str, tuple[int, ...]]
"""Name of a stored tensor, and where a block begins in it, in every dimension."""


class BlockReader:
    """Reads blocks of a checkpoint's tensors.

    megatron-core's own `load` reads and checks the whole metadata at every call: ten milliseconds for a model of three
    layers, and more the more tensors there are.

    Args:
        folder: The checkpoint folder itself.

    Raises:
        InputError: The folder is no checkpoint, or its metadata is damaged.
        StageError: The volume fails; see `components.storage.volume`.
    """

    def __init__(self, folder: Path) -> None:
        check_finished(folder)
        self._folder = folder
        self._reader = FileSystemReader(folder)
        try:
            self._metadata: Metadata = read_patiently(self._reader.read_metadata, folder)
        except DAMAGE as error:
            raise InputError(f"The metadata of the checkpoint {folder} is damaged: {error}") from error
        self._reader.set_up_storage_reader(self._metadata, is_coordinator=True)

    def fill(self, blocks: Mapping[Place, Tensor]) -> None:
        """Fill tensors with the blocks of their places and shapes, whatever blocks were written.

        Raises:
            InputError: A file is missing or damaged, or a part of a block was never written.
            StageError: The volume fails; see `components.storage.volume`.
        """
        items: list[ReadItem] = []
        for (key, offset), block in blocks.items():
            stored = self._metadata.state_dict_metadata.get(key)
            chunk = ChunkStorageMetadata(offsets=torch.Size(offset), sizes=block.shape)
            found = (
                create_read_items_for_chunk_list(key, stored, [chunk])
                if isinstance(stored, TensorStorageMetadata)
                else []
            )
            if sum(item.lengths.numel() for item in found) != block.numel():
                raise InputError(f"The checkpoint {self._folder} does not hold all of {key} at {list(offset)}.")
            items += found
        try:
            read_patiently(lambda: self._reader.read_data(LoadPlan(items), _Filling(blocks)).wait(), self._folder)
        except (*DAMAGE, AssertionError, IndexError) as error:
            raise InputError(f"The checkpoint {self._folder} is damaged or does not fit the model: {error}") from error


class _Filling(DefaultLoadPlanner):
    """Tells the reader which part of which block a stored piece goes to."""

    def __init__(self, blocks: Mapping[Place, Tensor]) -> None:
        super().__init__()
        self._blocks = blocks

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        place = read_item.dest_index.fqn, tuple(read_item.dest_index.offset or ())
        within = zip(read_item.dest_offsets, read_item.lengths, strict=True)
        return self._blocks[place][tuple(slice(first, first + length) for first, length in within)]

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """The part is a view: its block is filled."""
