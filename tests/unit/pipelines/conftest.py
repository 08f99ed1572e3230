"""What tests of pipelines share."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _quick_compiling(shallow_stacks: None) -> None:
    """Most tests here compile."""
