"""What tests of the data path share: loader processes that are forked from this one start quickly."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _settled_objects() -> Iterator[None]:
    """Keep the libraries' objects out of garbage collection: every loader process looks through all of them when it starts."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
