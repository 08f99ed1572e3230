"""Everything before training, run by the real stages: what tests and benchmarks of training start from."""

from pathlib import Path
from typing import NamedTuple

from components.combine.stage import run_combine
from components.context import RunContext
from components.download.stage import run_download_dataset, run_download_weights
from components.energon_split.stage import run_energon_split
from components.wds_conversion.stage import run_wds_conversion
from components.weight_conversion.stage import run_weight_conversion
from pipelines.config import RunConfig

SMALL = [
    "data.scenes.pictures=300",
    "data.scenes.held_out_pictures=20",
    # Four groups of heads: tensor parallel 4 has one each.
    "weights.language.num_attention_heads=8",
    "weights.language.num_key_value_heads=4",
    "weights.language.head_dim=16",
]
"""The laptop preset on little data."""

SMALL_RUN = [
    *SMALL,
    "pretrain.recipe.iterations=24",
    "pretrain.recipe.save_interval=4",
    "pretrain.recipe.log_interval=2",
    "sft.recipe.iterations=8",
    "evaluations.captioning.generate.partitions=2",
]
"""The same in few steps, with every stage."""


class Prepared(NamedTuple):
    """Finished folders.

    Attributes:
        raw: Raw dataset folder.
        dataset: Energon dataset of the captions.
        model: Combined model folder.
    """

    raw: Path
    dataset: Path
    model: Path


def prepare(config: RunConfig, context: RunContext) -> Prepared:
    """Run download, conversion, split, weight conversion and combine."""
    raw = run_download_dataset(context, config.data).folder
    shards = run_wds_conversion(context, config.wds_conversion.pretrain, raw).folder
    dataset = run_energon_split(context, config.energon_split.pretrain, shards).folder
    weights = run_download_weights(context, config.weights, raw).folder
    language = run_weight_conversion(context, config.weight_conversion.language, weights).folder
    vision = run_weight_conversion(context, config.weight_conversion.vision, weights).folder
    return Prepared(raw, dataset, run_combine(context, config.combine, language, vision).folder)
