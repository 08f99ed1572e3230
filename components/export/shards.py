"""Writes safetensors files larger than memory: a file's header first, then one tensor after the other.

The safetensors package writes tensors that are all in memory. Its format (8 bytes with the header's length, a JSON
header with type, shape and place of every tensor, the tensors' bytes without gaps) needs no such thing.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from components.errors import InputError
from components.storage.atomic import open_atomic, write_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_TYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_ALIGNMENT = 8  # of the tensors' first byte; the header is filled up with blanks


@dataclass(frozen=True)
class TensorGroup:
    """Tensors that are made together and stay in one file.

    Attributes:
        names: Their names.
        shapes: Their shapes.
        make: Returns their values.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    make: Callable[[], list[Tensor]]

    def size(self, dtype: torch.dtype) -> int:
        """Return the bytes of all its tensors."""
        return sum(math.prod(shape) for shape in self.shapes) * dtype.itemsize


def write_shards(
    folder: Path,
    groups: Sequence[TensorGroup],
    dtype: torch.dtype,
    max_shard_bytes: int,
    progress: Callable[[int], None],
) -> dict[str, str]:
    """Write tensors as `model.safetensors`, or as several files with an index.

    Memory holds one group at a time.

    Args:
        folder: Where to write; files appear complete.
        groups: The tensors, in the order of the files.
        dtype: Type of all tensors.
        max_shard_bytes: A file is ended before it would become larger.
        progress: Called with the number of finished groups.

    Returns:
        Tensor name to file name.

    Raises:
        InputError: A value is not finite.
    """
    shards = list(_divided(groups, dtype, max_shard_bytes))
    names = [SINGLE_FILE]
    if len(shards) > 1:
        names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    done = 0
    for name, shard in zip(names, shards, strict=True):
        with open_atomic(folder / name) as stream:
            stream.write(_header(shard, dtype))
            for group in shard:
                _write_group(stream, group, dtype)
                done += 1
                progress(done)
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for g in shard for tensor in g.names}
    if len(shards) > 1:
        total = sum(group.size(dtype) for group in groups)
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return weight_map


def _divided(groups: Iterable[TensorGroup], dtype: torch.dtype, limit: int) -> Iterator[list[TensorGroup]]:
    shard: list[TensorGroup] = []
    size = 0
    for group in groups:
        if shard and size + group.size(dtype) > limit:
            yield shard
            shard, size = [], 0
        shard.append(group)
        size += group.size(dtype)
    yield shard


def _header(shard: Sequence[TensorGroup], dtype: torch.dtype) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for group in shard:
        for name, shape in zip(group.names, group.shapes, strict=True):
            end = offset + math.prod(shape) * dtype.itemsize
            entries[name] = {"dtype": _TYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
            offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write_group(stream: IO[bytes], group: TensorGroup, dtype: torch.dtype) -> None:
    for name, shape, value in zip(group.names, group.shapes, group.make(), strict=True):
        if tuple(value.shape) != shape:  # a defect of the plan: the header would lie
            raise AssertionError(f"{name} has shape {tuple(value.shape)}, {shape} was announced")
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"{name} holds values that are not finite: the training has diverged. It is not exported.")
        stored = value.to(dtype).contiguous()
        stream.write(stored.flatten().view(torch.uint8).numpy().data)
