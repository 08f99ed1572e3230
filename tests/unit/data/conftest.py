"""What tests of the data path share: loader processes that are forked from this one start quickly."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _settled_objects() -> Iterator[None]:
    """Keep what is there out of garbage collection: every loader process looks through all of it when it starts.

    Before each test, since a loader without processes ends that for everybody.
    """
    gc.freeze()
    yield
    gc.unfreeze()
