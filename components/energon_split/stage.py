"""The energon split as a stage."""

from pathlib import Path
from typing import Any

from components.energon_split.config import EnergonSplitConfig
from components.stage.context import RunContext
from components.stage.manifest import read_manifest
from components.stage.runner import StageOutput, StageWork, run_stage

VERSION = 1


def run_energon_split(context: RunContext, config: EnergonSplitConfig, shards: Path) -> StageOutput:
    """Prepare shards for energon and divide them into training, validation and test.

    Args:
        context: The pipeline run.
        config: The settings; `name` names this use of the stage.
        shards: Finished folder of the WebDataset conversion.

    Returns:
        A folder with `dataset/` (the shards and energon's metadata) and `blend.yaml`.

    Raises:
        StageError: A split would be empty, or reading back finds samples lost or doubled.
    """

    def body(work: StageWork) -> dict[str, Any]:
        from components.data.loader import BLEND_FILE
        from components.energon_split.preparation import DATASET_FOLDER, link_shards, prepare, write_configs
        from components.energon_split.verification import verify
        from components.wds_conversion.conversion import SHARDS_FOLDER, available_processes

        written = read_manifest(shards).facts
        dataset = work.folder / DATASET_FOLDER
        link_shards(sorted((shards / SHARDS_FOLDER).glob("*.tar")), dataset)
        processes = available_processes()
        splits = prepare(dataset, config.ratio, processes)
        write_configs(work.folder, list(written["formats"]), written["text_only"])
        counts = verify(work.folder / BLEND_FILE, splits, written["samples"], processes, work.progress)
        return {
            "samples": sum(counts.values()),
            "splits": counts,
            "shards": {name: len(names) for name, names in splits.items()},
        }

    return run_stage(
        context,
        stage=f"energon_split/{config.name}",
        version=VERSION,
        inputs={"shards": shards},
        settings=config,
        body=body,
    )
