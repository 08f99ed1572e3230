"""What a frozen tower sees of a step's pictures, for several micro-batches at once.

A micro-batch has few pictures: a GPU is done with them before the host has started all the kernels. Many take hardly longer.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from components.data.packing import PackedBatch

PICTURES_AT_ONCE = 64
"""At 336 x 336, features of 75 MB in bf16, and as much again for each of a few intermediate results."""


def features_of(
    batches: Sequence[PackedBatch],
    see: Callable[[Tensor, Tensor], Tensor],
    pictures_at_once: int = PICTURES_AT_ONCE,
) -> Iterator[Tensor | None]:
    """Yield the features of one micro-batch after the other, computed when they are first needed.

    Args:
        batches: The micro-batches.
        see: Computes the features [N, patches, width] of pixels [N, 3, size, size] and their valid areas [N, 2].
        pictures_at_once: Micro-batches are joined as long as they have no more pictures; one that has more stands alone.

    Yields:
        [N, patches, width] for a micro-batch with N pictures; None for one without.
    """
    start = 0
    while start < len(batches):
        end, pictures = start + 1, len(batches[start].pixels)
        while end < len(batches) and pictures + len(batches[end].pixels) <= pictures_at_once:
            pictures += len(batches[end].pixels)
            end += 1
        yield from _joined(batches[start:end], see)
        start = end


def _joined(batches: Sequence[PackedBatch], see: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Tensor | None]:
    counts = [len(batch.pixels) for batch in batches]
    if not any(counts):
        yield from (None for _ in batches)
        return
    features = see(torch.cat([batch.pixels for batch in batches]), torch.cat([batch.valid for batch in batches]))
    for part in features.split(counts):
        yield part if len(part) else None
