"""Compiling costs below pytest what it costs outside of it."""

import inspect
import sys
from types import FrameType, SimpleNamespace


def use_shallow_stacks() -> None:
    """Let KFP look at its caller's name without reading source files.

    It asks for the whole call stack, source lines and all, whenever a task is set up; below pytest, with everything imported, that makes
    one second of compiling six. `inspect.stack(context=0)` looks for every frame's file too.
    """
    from kfp.dsl import pipeline_task

    pipeline_task.inspect = SimpleNamespace(stack=_stack)


def _stack() -> list[inspect.FrameInfo]:
    """Return the callers' frames, as `inspect.stack` does."""
    found: list[inspect.FrameInfo] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        found.append(inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
        frame = frame.f_back
    return found
