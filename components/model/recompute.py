"""Layers that the backward pass computes again, instead of keeping what their forward pass left.

torch's own checkpointing, on CPUs and GPUs alike; megatron-core's replays the random numbers of GPUs alone.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch.utils.checkpoint import checkpoint

Recompute = Literal["none", "selective", "full"]
"""What is computed again: nothing; every layer's MLP with its norm, whose activations are the widest; whole layers.

With "full" a layer keeps its input alone, [T, hidden], for a third more work. "selective" keeps the attention's
activations too, and spends the second half of the forward pass again but for the last product.
"""


class RecomputedMlpLayer(TransformerLayer):
    """A layer that keeps its attention's activations and computes its MLP again."""

    def _forward_mlp(self, *args: Any, **kwargs: Any) -> Any:
        return _recomputed(super()._forward_mlp, *args, **kwargs)


class RecomputedLayer(TransformerLayer):
    """A layer that keeps its input alone."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer; see megatron-core's `TransformerLayer`."""
        return _recomputed(super().forward, *args, **kwargs)


LAYERS: dict[Recompute, type[TransformerLayer]] = {
    "none": TransformerLayer,
    "selective": RecomputedMlpLayer,
    "full": RecomputedLayer,
}


def _recomputed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return function(*args, **kwargs)

    def called(*values: Any) -> Any:
        return function(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))

    # All by position: torch restores the random numbers of those devices alone that it finds among positional arguments, and
    # megatron-core names them. Dropout would draw another mask in the repetition.
    return checkpoint(called, *args, *kwargs.values(), use_reentrant=False)
