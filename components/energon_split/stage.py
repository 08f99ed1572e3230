"""The energon split as a stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.context import RunContext
from components.cores import available_cores
from components.energon_split.blend import (
    CRUDE_CONFIG,
    BlendEntry,
    identity,
    other_dataset,
    write_blend,
)
from components.energon_split.config import SPLITS, EnergonSplitConfig
from components.stage.manifest import read_manifest
from components.stage.part import Part, part_of
from components.stage.runner import StageOutput, StageWork, run_stage
from components.wds_conversion.config import SHARDS_FOLDER

VERSION = 4


def run_energon_split(context: RunContext, config: EnergonSplitConfig, shards: Path) -> StageOutput:
    """Prepare shards for energon, divide them into training, validation and test, and write the blend for training.

    Args:
        context: The pipeline run.
        config: The settings; `name` names this use of the stage.
        shards: Finished folder of the WebDataset conversion.

    Returns:
        A folder with `dataset/` (the shards and energon's metadata; of a mixture, a folder for each dataset) and `blend.yaml`.

    Raises:
        InputError: A dataset of `blend_with` can't be used.
        StageError: A split would be empty, or reading back finds samples lost or doubled.
    """
    others = [other_dataset(part) for part in config.blend_with]

    def body(work: StageWork) -> dict[str, Any]:
        from components.data.blend import BLEND_FILE
        from components.energon_split.members import members
        from components.energon_split.preparation import known_files, link_shards, prepare, write_configs
        from components.energon_split.verification import check_first_sample, verify

        for other in others:
            check_first_sample(other)
        processes = available_cores()
        own, facts = [], {}
        for member in members(conversion, shards, config.weight):
            dataset = work.folder / member.folder
            linked = link_shards(member.shards, dataset)
            work.known_files.update(known_files(linked, member.folder, SHARDS_FOLDER, conversion.files))
            splits = prepare(dataset, config.ratio, processes)
            write_configs(dataset, member.counts, config.sample_type)
            counts = verify(dataset, splits, member.counts["samples"], processes, work.progress)
            own.append(BlendEntry(member.folder, member.weight, config.subflavors, CRUDE_CONFIG, splits))
            facts[member.name] = {
                "samples": sum(counts.values()),
                "splits": counts,
                "shards": {name: len(names) for name, names in splits.items()},
            }
        write_blend(work.folder / BLEND_FILE, [*own, *others])
        return _joined(facts, {entry.path.rpartition("/")[2]: entry.weight for entry in own}, len(others))

    conversion = read_manifest(shards)
    # Of a mixture also what each dataset counts and weighs, and where its shards' names come from.
    read = {
        name: conversion.facts.get(name) for name in ("formats", "text_only", "several_pictures", "samples", "datasets")
    }
    read["prefix"] = conversion.settings["prefix"]
    inputs: dict[str, Path | str | Part] = {"shards": part_of(shards, [SHARDS_FOLDER], read)}
    inputs |= {f"blend_with {number}": identity(part) for number, part in enumerate(config.blend_with)}
    return run_stage(
        context,
        stage=f"energon_split/{config.name}",
        version=VERSION,
        inputs=inputs,
        settings=config,
        body=body,
    )


def _joined(facts: Mapping[str, Mapping[str, Any]], weights: Mapping[str, float], others: int) -> dict[str, Any]:
    """Return the facts of the stage: sums, and of a mixture those of each dataset."""
    whole: dict[str, Any] = {
        "samples": sum(member["samples"] for member in facts.values()),
        **{
            key: {split: sum(member[key][split] for member in facts.values()) for split in SPLITS}
            for key in ("splits", "shards")
        },
        "blended_with": others,
    }
    if len(facts) > 1:
        whole["datasets"] = {name: {**member, "weight": weights[name]} for name, member in facts.items()}
    return whole
