"""Compiling costs below pytest what it costs outside of it."""

import inspect
from types import SimpleNamespace


def use_shallow_stacks() -> None:
    """Let KFP look at its caller's name without reading source files.

    It asks for the whole call stack, source lines and all, whenever a task is set up; below pytest, with everything imported, that makes
    one second of compiling six.
    """
    from kfp.dsl import pipeline_task

    pipeline_task.inspect = SimpleNamespace(stack=lambda: inspect.stack(context=0))
