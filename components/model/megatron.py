"""Imports megatron-core without torch's compiler where there is no GPU.

megatron-core hands its fused functions to `torch.compile` as soon as it is imported. That loads the whole compiler, two
seconds of every process's start, for functions that the layers of this project never call on a CPU.
"""

from collections.abc import Callable
from typing import Any

import torch


def import_megatron() -> None:
    """Import megatron-core; a process that is to start quickly calls this before anything else imports it."""
    if torch.cuda.is_available():
        import megatron.core

        return
    compile_ = torch.compile
    torch.compile = _left_alone  # type: ignore[assignment]
    try:
        import megatron.core  # noqa: F401
    finally:
        torch.compile = compile_


def _left_alone(function: Callable[..., Any] | None = None, **_: Any) -> Callable[..., Any]:
    """Stand in for `torch.compile`, also as a decorator with options."""
    return function if function is not None else _left_alone
