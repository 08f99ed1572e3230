"""Models larger than memory: outlines, and layers run one at a time.

A model that is only an outline (`outlined`) has names and shapes but no memory. Conversion, combination and export work
on outlines, so that they hold a few tensors at a time, whatever the model's size.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from components.progress import Progress

Read = Callable[[str], Tensor]
Module = TypeVar("Module", bound=nn.Module)

_MB = 1_000_000


def outlined(build: Callable[[], Module]) -> Module:
    """Build a module whose parameters have names, shapes and types but no memory ("meta" tensors)."""
    with torch.device("meta"):
        return build()


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
