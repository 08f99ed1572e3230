"""The energon split as a stage."""

from pathlib import Path
from typing import Any

from components.context import RunContext
from components.cores import available_cores
from components.energon_split.blend import (
    CRUDE_CONFIG,
    DATASET_FOLDER,
    BlendEntry,
    identity,
    other_dataset,
    write_blend,
)
from components.energon_split.config import EnergonSplitConfig
from components.stage.manifest import read_manifest
from components.stage.runner import StageOutput, StageWork, run_stage

VERSION = 2


def run_energon_split(context: RunContext, config: EnergonSplitConfig, shards: Path) -> StageOutput:
    """Prepare shards for energon, divide them into training, validation and test, and write the blend for training.

    Args:
        context: The pipeline run.
        config: The settings; `name` names this use of the stage.
        shards: Finished folder of the WebDataset conversion.

    Returns:
        A folder with `dataset/` (the shards and energon's metadata) and `blend.yaml`.

    Raises:
        InputError: A dataset of `blend_with` can't be used.
        StageError: A split would be empty, or reading back finds samples lost or doubled.
    """
    others = [other_dataset(part) for part in config.blend_with]

    def body(work: StageWork) -> dict[str, Any]:
        from components.data.blend import BLEND_FILE
        from components.energon_split.preparation import known_files, link_shards, prepare, write_configs
        from components.energon_split.verification import check_first_sample, verify
        from components.wds_conversion.conversion import SHARDS_FOLDER

        for other in others:
            check_first_sample(other)
        conversion = read_manifest(shards)
        written = conversion.facts
        dataset = work.folder / DATASET_FOLDER
        linked = link_shards(sorted((shards / SHARDS_FOLDER).glob("*.tar")), dataset)
        work.known_files.update(known_files(linked, DATASET_FOLDER, SHARDS_FOLDER, conversion.files))
        processes = available_cores()
        splits = prepare(dataset, config.ratio, processes)
        write_configs(dataset, list(written["formats"]), written["text_only"], config.sample_type)
        counts = verify(dataset, splits, written["samples"], processes, work.progress)
        own = BlendEntry(DATASET_FOLDER, config.weight, config.subflavors, CRUDE_CONFIG, splits)
        write_blend(work.folder / BLEND_FILE, [own, *others])
        return {
            "samples": sum(counts.values()),
            "splits": counts,
            "shards": {name: len(names) for name, names in splits.items()},
            "blended_with": len(others),
        }

    inputs: dict[str, Path | str] = {"shards": shards}
    inputs |= {f"blend_with {number}": identity(part) for number, part in enumerate(config.blend_with)}
    return run_stage(
        context,
        stage=f"energon_split/{config.name}",
        version=VERSION,
        inputs=inputs,
        settings=config,
        body=body,
    )
