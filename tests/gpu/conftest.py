"""What only a GPU can show; each test compares with the CPU, with transformers, or with an uninterrupted run."""

import importlib.util
from pathlib import Path

import pytest
import torch

from components.context import RunContext
from pipelines.preset_files import load_preset
from tests.support.small_chain import SMALL, Prepared, prepare


@pytest.fixture(scope="session", autouse=True)
def _gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(scope="module", params=["local", "transformer_engine"])
def layers(request: pytest.FixtureRequest) -> str:
    """Plain layers, and Transformer Engine's where it is installed."""
    name: str = request.param
    if name == "transformer_engine" and importlib.util.find_spec("transformer_engine") is None:
        pytest.skip("needs Transformer Engine")
    return name


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Run download, conversion, split, weight conversion and combine on little data."""
    context = RunContext(run_id="test", run_name="test", workspace=tmp_path_factory.mktemp("workspace"))
    return prepare(load_preset("laptop", SMALL), context)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the runs of all tests."""
    return tmp_path_factory.mktemp("runs")
