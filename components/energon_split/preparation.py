"""Energon's own preparation of a folder of shards, and the files that say what its samples are."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from megatron.energon import CrudeWebdataset

from components.data.blend import CONVERSATION_FIELD, IMAGE_EXTENSIONS
from components.energon_split.blend import CRUDE_CONFIG, DEFAULT_CONFIG, META_FOLDER, read_splits
from components.energon_split.config import SampleType, divide, split_problem
from components.errors import StageError
from components.files import FileEntry
from components.storage.atomic import write_text

_NOTHING = "(?!)"  # the pattern that matches no name
_CRUDE = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}


def link_shards(shards: Sequence[Path], dataset: Path) -> list[str]:
    """Put the shards into a new folder by hard link; by copy where the folders are on different file systems.

    Returns:
        Names of the shards that are links.
    """
    if dataset.exists():
        shutil.rmtree(dataset)
    dataset.mkdir(parents=True)
    linked = []
    for shard in shards:
        try:
            os.link(shard, dataset / shard.name)
            linked.append(shard.name)
        except OSError:
            shutil.copyfile(shard, dataset / shard.name)
    return linked


def known_files(linked: Sequence[str], folder: str, source: str, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
    """Return the checksums of linked shards, from the manifest of the stage that wrote them.

    Args:
        linked: Names of the shards.
        folder: Their folder in this stage.
        source: Their folder in that stage.
        files: That stage's files.
    """
    return {f"{folder}/{name}": files[f"{source}/{name}"] for name in linked if f"{source}/{name}" in files}


def prepare(dataset: Path, ratio: tuple[float, float, float], processes: int) -> dict[str, list[str]]:
    """Let energon index the shards and divide them.

    Args:
        dataset: Folder of the shards.
        ratio: Parts for train, val and test.
        processes: Processes that index.

    Returns:
        Split to the names of its shards.

    Raises:
        StageError: Keys repeat, or a split with a part of the ratio would be empty.
    """
    names = sorted(path.name for path in dataset.glob("*.tar"))
    if problem := split_problem(len(names), ratio):
        raise StageError(
            f"The shards in {dataset} can't be divided: {problem}. Energon divides whole shards: raise `min_shards` of "
            "the conversion."
        )
    splits = divide(names, ratio)
    # By name: given the ratio, energon may lose a shard (see `divide`).
    patterns = [
        (split, f"({'|'.join(map(re.escape, shards))})$" if shards else _NOTHING) for split, shards in splits.items()
    ]
    try:
        CrudeWebdataset.prepare_dataset(
            dataset, names, split_parts_patterns=patterns, shuffle_seed=None, workers=processes
        )
    except SystemExit as error:  # how energon ends when a key comes twice
        raise StageError(
            f"Energon refuses the shards in {dataset}: a sample key comes twice. See the lines above."
        ) from error
    written = read_splits(dataset)
    if written != splits:
        raise StageError(f"Energon wrote other splits to {dataset / META_FOLDER} than it was asked for: {written}.")
    return splits


def write_configs(dataset: Path, counts: Mapping[str, Any], sample_type: SampleType = "auto") -> None:
    """Write energon's dataset files.

    `conversation.yaml` is what this project reads. `dataset.yaml` is what energon's tools and Megatron's example read
    unaided: by default the reference recipe's VQASample. Only the crude type can describe samples without a picture or with
    several.

    Args:
        dataset: Folder of the prepared shards.
        counts: What the conversion counted: `formats` of the pictures, samples that are `text_only`, and with
            `several_pictures`.
        sample_type: What `dataset.yaml` takes the samples for.

    Raises:
        StageError: There are samples that the sample type can't describe.
    """
    meta = dataset / META_FOLDER
    fields = [field for field in IMAGE_EXTENSIONS if field in counts["formats"]]
    others = counts["text_only"] + counts["several_pictures"]
    pictured = bool(fields) and not others
    if sample_type == "auto":
        sample_type = "vqa" if pictured else "conversation"
    if sample_type != "conversation" and not pictured:
        raise StageError(
            f"sample_type {sample_type} needs one picture in every sample, and {others} samples have none or several. "
            'Take "conversation" or "auto".'
        )
    image = {"image": ",".join(fields)}
    question = {"context": f"{CONVERSATION_FIELD}[0][value]"}
    answer = f"{CONVERSATION_FIELD}[1][value]"
    configs: dict[SampleType, dict[str, Any]] = {
        "conversation": _CRUDE,
        "vqa": _typed("VQASample", {**image, **question, "answers": answer}),
        "captioning": _typed("CaptioningSample", {**image, "caption": answer}),
    }
    write_text(meta / CRUDE_CONFIG, yaml.safe_dump(_CRUDE, sort_keys=False))
    write_text(meta / DEFAULT_CONFIG, yaml.safe_dump(configs[sample_type], sort_keys=False))


def _typed(sample_type: str, field_map: dict[str, str]) -> dict[str, Any]:
    return {
        "sample_type": {"__module__": "megatron.energon", "__class__": sample_type},
        "field_map": field_map,
    }
