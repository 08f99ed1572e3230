"""A small chain of real stages, run once per test session."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from components.context import RunContext
from pipelines.config import RunConfig
from pipelines.preset_files import load_preset
from tests.support.small_chain import SMALL, prepare


@dataclass(frozen=True)
class Chain:
    """Finished folders of everything before training.

    Attributes:
        config: The laptop preset, made small.
        context: Its run.
        raw: Raw dataset folder.
        dataset: Energon dataset of the captions.
        model: Combined model folder.
    """

    config: RunConfig
    context: RunContext
    raw: Path
    dataset: Path
    model: Path


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Run download, conversion, split, weight conversion and combine on little data."""
    config = load_preset("laptop", SMALL)
    context = RunContext(run_id="test", run_name="test", workspace=tmp_path_factory.mktemp("workspace"))
    return Chain(config, context, *prepare(config, context))
