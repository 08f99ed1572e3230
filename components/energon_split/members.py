"""The datasets that a conversion wrote: one, or those of a mixture, each with shards of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.energon_split.blend import DATASET_FOLDER
from components.stage.manifest import Manifest
from components.wds_conversion.config import SHARDS_FOLDER
from components.wds_conversion.planning import shard_name


@dataclass(frozen=True)
class Member:
    """A dataset that energon prepares.

    Attributes:
        name: Its name in the mixture; empty where there is one alone.
        folder: Where it goes, relative to the stage's folder.
        weight: How often training draws from it.
        shards: Its shards.
        counts: What the conversion counted of it.
    """

    name: str
    folder: str
    weight: float
    shards: Sequence[Path]
    counts: dict[str, Any]


def members(conversion: Manifest, shards: Path, weight: float) -> list[Member]:
    """Return the datasets of a conversion.

    Args:
        conversion: Its manifest.
        shards: Its folder.
        weight: What the datasets weigh together; each has its share, by its own weight.
    """
    datasets = conversion.facts.get("datasets", {})
    paths = sorted((shards / SHARDS_FOLDER).glob("*.tar"))
    if len(datasets) < 2:
        return [Member("", DATASET_FOLDER, weight, paths, conversion.facts)]
    total = sum(counts["weight"] for counts in datasets.values())
    found = []
    for name, counts in datasets.items():
        # The number has six digits: the shards of "a" don't begin as those of "a-b" do.
        stem = shard_name(conversion.settings["prefix"], 0, name)[:-6]
        own = [path for path in paths if path.stem[:-6] == stem]
        found.append(Member(name, f"{DATASET_FOLDER}/{name}", weight * counts["weight"] / total, own, counts))
    return found
