"""Waiting for what another process or thread does, for as long as a busy machine may need."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

PATIENCE_S = 120.0
T = TypeVar("T")


def wait_for(
    probe: Callable[[], T], look_s: float = 0.01, what: str = "what is waited for", patience_s: float = PATIENCE_S
) -> T:
    """Look until something is true, and return it.

    Args:
        probe: Looks. Raises what ends the waiting early, say that the process that is waited for has ended.
        look_s: Seconds between two looks.
        what: Named if it does not come.
        patience_s: Seconds after which it does not come any more.
    """
    end = time.monotonic() + patience_s
    while not (found := probe()):
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come in {patience_s:.0f} s")
        time.sleep(look_s)
    return found
