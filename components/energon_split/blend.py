"""The blend file: the energon metadataset (version 2) that says which datasets training draws from, and how often."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.energon_split.config import SPLITS, BlendPart, Subflavors
from components.errors import InputError
from components.stage.manifest import MANIFEST_NAME
from components.storage.atomic import write_text
from components.yaml_text import parse_yaml

DATASET_FOLDER = "dataset"
META_FOLDER = ".nv-meta"
# What this project's loader reads: every sample as it lies in the shard, captions, dialogues and text alike.
CRUDE_CONFIG = "conversation.yaml"
# What energon's own tools read by default.
DEFAULT_CONFIG = "dataset.yaml"

_INFO_FILE = ".info.json"
_IDENTITY_FILE = "index.uuid"
_SPLIT_FILE = "split.yaml"
_CRUDE_CLASS = "CrudeWebdataset"


@dataclass(frozen=True)
class BlendEntry:
    """A dataset in a blend file.

    Attributes:
        path: The dataset folder, absolute or relative to the blend file.
        weight: How often it is drawn from.
        subflavors: Marks on its samples.
        dataset_config: The file in its `.nv-meta` that says what its samples are.
        splits: Split to shards.
    """

    path: str
    weight: float
    subflavors: Subflavors
    dataset_config: str
    splits: dict[str, list[str]]


def write_blend(path: Path, entries: Sequence[BlendEntry]) -> None:
    """Write a blend file.

    A split names the datasets that have shards for it. One that no dataset has shards for names the first dataset, so that
    energon's tools find an empty split rather than none.
    """
    splits = {
        split: {"blend": [_as_yaml(entry) for entry in entries if entry.splits[split]] or [_as_yaml(entries[0])]}
        for split in SPLITS
    }
    blend = {"__module__": "megatron.energon", "__class__": "MetadatasetV2", "splits": splits}
    write_text(path, yaml.safe_dump(blend, sort_keys=False))


def _as_yaml(entry: BlendEntry) -> dict[str, Any]:
    # A new object each time: YAML would write a shared one as an alias, which energon does not read.
    return {
        "weight": entry.weight,
        "path": entry.path,
        "dataset_config": entry.dataset_config,
        "subflavors": dict(entry.subflavors),
    }


def other_dataset(part: BlendPart) -> BlendEntry:
    """Return the entry of another dataset.

    Raises:
        InputError: It was not prepared by energon, is of another type than ours, lacks shards, or has none for training.
    """
    folder = _dataset_folder(part)
    meta = folder / META_FOLDER
    absent = [name for name in (_INFO_FILE, _SPLIT_FILE) if not (meta / name).is_file()]
    if absent:
        raise InputError(
            f"blend_with: {folder} is not a dataset that energon has prepared: {META_FOLDER}/{absent[0]} is missing. "
            "Name a finished folder of the energon split, or run `energon prepare` there."
        )
    splits = read_splits(folder)
    missing = [name for shards in splits.values() for name in shards if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"blend_with: {folder} lacks {len(missing)} shards of its {_SPLIT_FILE}, such as {missing[0]}."
        )
    if not splits["train"]:
        raise InputError(f"blend_with: {folder} has no shards for training in its {_SPLIT_FILE}.")
    return BlendEntry(str(folder), part.weight, part.subflavors, _crude_config(meta), splits)


def identity(part: BlendPart) -> str:
    """Return what identifies the content of another dataset: the mark that energon renews whenever it prepares one.

    Raises:
        InputError: It has no such mark.
    """
    path = _dataset_folder(part) / META_FOLDER / _IDENTITY_FILE
    try:
        return f"{part.path}#{path.read_text(encoding='utf-8').strip()}"
    except OSError as error:
        raise InputError(
            f"blend_with: {path} can't be read: {error.strerror}. Prepare the dataset with energon 7 or later."
        ) from error


def read_splits(dataset: Path) -> dict[str, list[str]]:
    """Return the splits of a dataset that energon has prepared: split to the names of its shards.

    Raises:
        InputError: `split.yaml` has another layout.
    """
    from braceexpand import braceexpand

    path = dataset / META_FOLDER / _SPLIT_FILE
    content = _read_yaml(path)
    parts = content.get("split_parts")
    if not isinstance(parts, dict):
        raise InputError(f"{path} has no `split_parts`. Run `energon prepare` again.")
    return {split: [name for pattern in parts.get(split) or [] for name in braceexpand(pattern)] for split in SPLITS}


def _dataset_folder(part: BlendPart) -> Path:
    path = Path(part.path)
    if not path.is_dir():
        raise InputError(f"blend_with: the folder {path} does not exist here.")
    return path / DATASET_FOLDER if (path / MANIFEST_NAME).is_file() and (path / DATASET_FOLDER).is_dir() else path


def _crude_config(meta: Path) -> str:
    """Return the file that declares the crude type, the one that the loader takes samples from."""
    for name in (CRUDE_CONFIG, DEFAULT_CONFIG):
        if (meta / name).is_file() and _read_yaml(meta / name).get("__class__") == _CRUDE_CLASS:
            return name
    raise InputError(
        f"blend_with: neither {CRUDE_CONFIG} nor {DEFAULT_CONFIG} in {meta} declares the crude type. "
        f"Write {meta / CRUDE_CONFIG} with the lines `__module__: megatron.energon` and `__class__: {_CRUDE_CLASS}`."
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    return content if isinstance(content, dict) else {}
