"""The WebDataset conversion as a stage."""

from pathlib import Path
from typing import Any

from components.stage.context import RunContext
from components.stage.runner import StageOutput, StageWork, run_stage
from components.wds_conversion.config import WdsConversionConfig

VERSION = 1


def run_wds_conversion(context: RunContext, config: WdsConversionConfig, raw: Path) -> StageOutput:
    """Convert one annotation file of a raw dataset to shards.

    Args:
        context: The pipeline run.
        config: The settings; `prefix` names this use of the stage.
        raw: Finished folder of the download stage.

    Returns:
        A folder with `shards/`, `markers/` and `rejects.jsonl`.

    Raises:
        InputError: The raw dataset can't be read, or too many entries were rejected.
    """

    def body(work: StageWork) -> dict[str, Any]:
        from components.wds_conversion.conversion import available_processes, convert

        return convert(raw, work.folder, config, available_processes(), work.progress)

    return run_stage(
        context,
        stage=f"wds_conversion/{config.prefix}",
        version=VERSION,
        inputs={"raw": raw},
        settings=config,
        body=body,
    )
