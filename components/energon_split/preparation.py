"""Energon's own preparation of a folder of shards, and the files that say how to read it."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from megatron.energon import CrudeWebdataset

from components.data.loader import BLEND_FILE, CONVERSATION_FIELD, IMAGE_FIELDS
from components.errors import StageError
from components.storage.atomic import write_text

DATASET_FOLDER = "dataset"
META_FOLDER = ".nv-meta"
SPLITS = ("train", "val", "test")

# What this project's loader reads: every sample as it lies in the shard, captions, dialogues and text alike.
CRUDE_CONFIG = "conversation.yaml"
# What energon's own tools read by default.
DEFAULT_CONFIG = "dataset.yaml"

_SPLIT_FILE = "split.yaml"
_CRUDE = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}


def link_shards(shards: Sequence[Path], dataset: Path) -> None:
    """Put the shards into a new folder by hard link; by copy where the folders are on different file systems."""
    if dataset.exists():
        shutil.rmtree(dataset)
    dataset.mkdir(parents=True)
    for shard in shards:
        try:
            os.link(shard, dataset / shard.name)
        except OSError:
            shutil.copyfile(shard, dataset / shard.name)


def prepare(dataset: Path, ratio: Sequence[float], processes: int) -> dict[str, list[str]]:
    """Let energon index the shards and divide them.

    Args:
        dataset: Folder of the shards.
        ratio: Parts for train, val and test.
        processes: Processes that index.

    Returns:
        Split to the names of its shards.

    Raises:
        StageError: Keys repeat, or the training or validation split would be empty.
    """
    names = sorted(path.name for path in dataset.glob("*.tar"))
    try:
        CrudeWebdataset.prepare_dataset(
            dataset,
            names,
            split_parts_ratio=list(zip(SPLITS, ratio, strict=True)),
            shuffle_seed=None,
            workers=processes,
        )
    except SystemExit as error:  # how energon ends when a key comes twice
        raise StageError(
            f"Energon refuses the shards in {dataset}: a sample key comes twice. See the lines above."
        ) from error
    parts = yaml.safe_load((dataset / META_FOLDER / _SPLIT_FILE).read_text(encoding="utf-8"))["split_parts"]
    split = {name: _expand(parts.get(name) or []) for name in SPLITS}
    for name, part in zip(SPLITS, ratio, strict=True):
        if part > 0 and not split[name]:
            raise StageError(
                f"The {name} split has no shard: {len(names)} shards can't be divided {ratio}. "
                "Energon divides whole shards: raise `min_shards` of the conversion."
            )
    return split


def write_configs(folder: Path, formats: Sequence[str], text_only: int) -> None:
    """Write energon's dataset files and the blend file.

    `dataset.yaml` is the reference recipe's VQASample (picture, first question, first answer), which energon's tools and
    Megatron's example read unaided. It can't describe a sample without a picture: a dataset that has some gets the crude
    type there as well. The blend file names `conversation.yaml`, so training always sees whole conversations.

    Args:
        folder: The stage's folder.
        formats: Field names of the pictures that occur.
        text_only: Number of samples without a picture.
    """
    meta = folder / DATASET_FOLDER / META_FOLDER
    write_text(meta / CRUDE_CONFIG, yaml.safe_dump(_CRUDE, sort_keys=False))
    fields = [field for field in IMAGE_FIELDS if field in formats]
    default: dict[str, Any] = _CRUDE
    if fields and not text_only:
        default = {
            "sample_type": {"__module__": "megatron.energon", "__class__": "VQASample"},
            "field_map": {
                "image": ",".join(fields),
                "context": f"{CONVERSATION_FIELD}[0][value]",
                "answers": f"{CONVERSATION_FIELD}[1][value]",
            },
        }
    write_text(meta / DEFAULT_CONFIG, yaml.safe_dump(default, sort_keys=False))
    blend = {
        "__module__": "megatron.energon",
        "__class__": "MetadatasetV2",
        "splits": {name: {"blend": [_blend_entry()]} for name in SPLITS},
    }
    write_text(folder / BLEND_FILE, yaml.safe_dump(blend, sort_keys=False))


def _blend_entry() -> dict[str, Any]:
    # A new object per split: YAML would write a shared one as an alias, which energon does not read.
    return {
        "weight": 1.0,
        "path": DATASET_FOLDER,
        "dataset_config": CRUDE_CONFIG,
        "subflavors": {"augmentation": False},
    }


def _expand(patterns: Sequence[str]) -> list[str]:
    from braceexpand import braceexpand

    return [name for pattern in patterns for name in braceexpand(pattern)]
