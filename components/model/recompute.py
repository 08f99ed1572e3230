"""Layers that the backward pass computes again, instead of keeping what their forward pass left.

torch's own checkpointing, on CPUs and GPUs alike; megatron-core's replays the random numbers of GPUs alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker
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
    return checkpoint(function, *args, use_reentrant=False, context_fn=_same_tracker, **kwargs)


def _same_tracker() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """Return contexts for the forward pass and its repetition: both see the same state of megatron's generators.

    torch restores its own generators; Transformer Engine's attention dropout draws from megatron's tracker.
    """
    states = get_cuda_rng_tracker().get_states()
    return contextlib.nullcontext(), _tracker_at(states) if states else contextlib.nullcontext()


@contextlib.contextmanager
def _tracker_at(states: dict[str, torch.Tensor]) -> Iterator[None]:
    tracker = get_cuda_rng_tracker()
    now = tracker.get_states()
    tracker.set_states(states)
    try:
        yield
    finally:
        tracker.set_states(now)
