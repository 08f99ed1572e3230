"""One rank of each tensor-parallel group loads; the others receive."""

from dataclasses import fields

import torch
from megatron.core import parallel_state

from components.data.packing import PackedBatch


def share_batches(batches: list[PackedBatch] | None, device: torch.device) -> list[PackedBatch]:
    """Return the micro-batches of the group's first rank on every tensor-parallel rank, on `device`.

    Args:
        batches: The micro-batches on the first rank of the tensor-parallel group, None on the others.
        device: Where the tensors go.
    """
    if parallel_state.get_tensor_model_parallel_world_size() > 1:
        batches = _broadcast(batches, device)
    if batches is None:
        raise ValueError("the first tensor-parallel rank has no batches to share")
    return [batch.to(device) for batch in batches]


def _broadcast(batches: list[PackedBatch] | None, device: torch.device) -> list[PackedBatch]:
    """Send a description of the batches as an object, then the bytes of all tensors in one message."""
    group = parallel_state.get_tensor_model_parallel_group()
    source = parallel_state.get_tensor_model_parallel_src_rank()
    header: list[object] = [None]
    if batches is not None:
        header = [[_describe(batch) for batch in batches]]
    torch.distributed.broadcast_object_list(header, src=source, group=group, device=device)
    descriptions: list[dict[str, object]] = header[0]  # type: ignore[assignment]
    if batches is not None:
        tensors = [value for batch in batches for value in vars(batch).values() if isinstance(value, torch.Tensor)]
        flat = torch.cat([tensor.contiguous().view(torch.uint8).reshape(-1) for tensor in tensors]).to(device)
        torch.distributed.broadcast(flat, src=source, group=group)
        return batches
    total = sum(
        _bytes(value) for description in descriptions for value in description.values() if isinstance(value, _Shape)
    )
    flat = torch.empty(total, dtype=torch.uint8, device=device)
    torch.distributed.broadcast(flat, src=source, group=group)
    return _rebuild(descriptions, flat)


class _Shape:
    """Shape and type of a tensor that follows in the message."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.shape = tuple(tensor.shape)
        self.dtype = tensor.dtype


def _describe(batch: PackedBatch) -> dict[str, object]:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: _Shape(value) if isinstance(value, torch.Tensor) else value for name, value in values.items()}


def _bytes(shape: _Shape) -> int:
    return int(torch.Size(shape.shape).numel()) * shape.dtype.itemsize


def _rebuild(descriptions: list[dict[str, object]], flat: torch.Tensor) -> list[PackedBatch]:
    offset = 0
    batches = []
    for description in descriptions:
        values = dict(description)
        for name, value in description.items():
            if isinstance(value, _Shape):
                size = _bytes(value)
                # clone: a slice of the message need not be aligned for its type
                values[name] = flat[offset : offset + size].clone().view(value.dtype).reshape(value.shape)
                offset += size
        batches.append(PackedBatch(**values))  # type: ignore[arg-type]
    return batches
