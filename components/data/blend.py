"""The blend file: which prepared datasets are drawn from, and how much of each."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from components.errors import InputError
from components.yaml_text import parse_yaml

BLEND_FILE = "blend.yaml"

# Fields of a sample in a shard: its pictures, their bytes as they came, and the list of conversation turns.
IMAGE_EXTENSIONS = ("jpg", "png", "webp")
CONVERSATION_FIELD = "json"
_PICTURE_FIELD = re.compile(rf"(?:(\d+)\.)?(?:{'|'.join(IMAGE_EXTENSIONS)})")

_META_FOLDER = ".nv-meta"
_DEFAULT_DATASET_CONFIG = "dataset.yaml"
_RAW_SAMPLES = "CrudeWebdataset"


def picture_field(number: int, pictures: int, extension: str) -> str:
    """Return the field of a sample that holds a picture: "jpg" for a single one, else "0.jpg", "1.png", ..."""
    return extension if pictures == 1 else f"{number}.{extension}"


def picture_fields(fields: Iterable[str]) -> list[str]:
    """Return those fields of a sample that hold pictures, in the pictures' order.

    Raises:
        InputError: There is a numbered picture beside one without a number, two of one number, or a gap.
    """
    found = {field: match[1] for field in fields if (match := _PICTURE_FIELD.fullmatch(field))}
    if len(found) == 1 and None in found.values():
        return list(found)
    ordered = sorted(found, key=lambda field: int(found[field] or 0))
    if [found[field] for field in ordered] != [str(number) for number in range(len(ordered))]:
        raise InputError(
            f"the sample's pictures are {', '.join(sorted(found))}; a single one is jpg, png or webp, several are 0.jpg, 1.jpg, ..."
        )
    return ordered


def blend_file(dataset_folder: Path) -> Path:
    """Return the blend file of a folder, after looking at every dataset that it names.

    Args:
        dataset_folder: Output of the energon split.

    Raises:
        InputError: The file is missing or not YAML, or a dataset that it names is missing, not prepared, or would not be
            read as whole conversations.
    """
    path = dataset_folder / BLEND_FILE
    if not path.is_file():
        raise InputError(f"{path} does not exist. Expected the folder that the energon split left.")
    for folder, config in _datasets(path):
        _check_dataset(path, folder, config)
    return path


def blend_digest(blend: Path) -> str:
    """Identify what a blend file names: its text, and every dataset's split and the place of every sample in its shards."""
    digest = hashlib.sha256(blend.read_bytes())
    for folder, config in _datasets(blend):
        meta = [folder / _META_FOLDER / name for name in (".info.json", "split.yaml", config)]
        for path in [*meta, *sorted(folder.glob("**/*.tar.idx"))]:
            if path.is_file():
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _datasets(blend: Path) -> Iterator[tuple[Path, str]]:
    """Yield folder and dataset file of every dataset of a blend file, those of blend files that it names included."""
    try:
        content = parse_yaml(blend.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{blend} is not a readable YAML file: {error}") from error
    for node in _references(content):
        path = blend.parent / node["path"]
        if path.suffix in (".yaml", ".yml"):
            yield from _datasets(path)
        else:
            yield path, node.get("dataset_config") or _DEFAULT_DATASET_CONFIG


def _references(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if isinstance(node.get("path"), str):
            yield node
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _check_dataset(blend: Path, folder: Path, config: str) -> None:
    path = folder / _META_FOLDER / config
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
        # A dataset class of its own, or the default one with a sample type.
        kind = content.get("__class__") or content["sample_type"]["__class__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(
            f"{blend} names the dataset {folder}, whose {path.relative_to(folder)} can't be read ({error!r}). "
            "Expected a dataset prepared by the energon split."
        ) from error
    if kind != _RAW_SAMPLES:
        raise InputError(
            f"{blend} reads {folder} as {kind}, which knows one question and one answer. Training reads whole "
            "conversations: add `dataset_config: conversation.yaml` to the dataset's entry."
        )
