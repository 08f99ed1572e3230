"""What tests of pipelines share: compiling costs what it costs outside of pytest."""

import inspect
from types import SimpleNamespace

import pytest
from kfp.dsl import pipeline_task


@pytest.fixture(scope="session", autouse=True)
def _shallow_stacks() -> None:
    """Let KFP look at its caller's name without reading source files.

    It asks for the whole call stack, source lines and all, whenever a task is set up; below pytest, with everything imported, that makes
    one second of compiling six.
    """
    pipeline_task.inspect = SimpleNamespace(stack=lambda: inspect.stack(context=0))
