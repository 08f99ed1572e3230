"""A small chain of real stages, run once per test session."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from components.combine.stage import run_combine
from components.download.stage import run_download_dataset, run_download_weights
from components.energon_split.stage import run_energon_split
from components.stage.context import RunContext
from components.wds_conversion.stage import run_wds_conversion
from components.weight_conversion.stage import run_weight_conversion
from pipelines.config import RunConfig, load_preset

SMALL = [
    "data.scenes.pictures=300",
    "data.scenes.held_out_pictures=20",
]


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
    raw = run_download_dataset(context, config.data).folder
    shards = run_wds_conversion(context, config.wds_conversion.pretrain, raw).folder
    dataset = run_energon_split(context, config.energon_split.pretrain, shards).folder
    weights = run_download_weights(context, config.weights, raw).folder
    language = run_weight_conversion(context, config.weight_conversion.language, weights).folder
    vision = run_weight_conversion(context, config.weight_conversion.vision, weights).folder
    model = run_combine(context, config.combine, language, vision).folder
    return Chain(config, context, raw, dataset, model)
