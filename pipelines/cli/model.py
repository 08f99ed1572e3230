"""Commands for models: export."""

import argparse
import warnings
from pathlib import Path
from typing import Any

from pipelines.cli.arguments import RUN_HELP, CommandGroup, add_overrides, add_places, places_of

_TUNED_MODEL = "sft"


def add_commands(group: CommandGroup) -> None:
    """Add this group's commands."""
    export = group.add("export", _export, "write a run's model as a folder that transformers loads")
    export.add_argument(
        "model",
        metavar="RUN",
        help=f"{RUN_HELP}: its tuned model is exported, by the run's own settings; or the folder of a finished training or "
        "combine stage",
    )
    add_places(export)
    export.add_argument("-o", "--output", metavar="FOLDER", type=Path, required=True, help="the new folder")
    add_overrides(export, "export.custom_code=true")


def _export(options: argparse.Namespace) -> int:
    from components.export.stage import export_to
    from pipelines.preset_files import export_settings

    warnings.filterwarnings("ignore", module=r"(megatron|torch)\.")  # their own deprecations
    model, given = _model(options)
    export_to(export_settings(options.overrides, given), model, options.output.absolute())
    print(options.output)
    return 0


def _model(options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Return the model folder that was named, itself or by its run, and the settings of that run."""
    from components.errors import InputError
    from components.runs.find import find_run, find_stage
    from components.stage.manifest import MANIFEST_NAME

    if (Path(options.model) / MANIFEST_NAME).is_file():
        return Path(options.model).absolute(), {}
    run = find_run(options.model, places_of(options))
    tuned = find_stage(run, _TUNED_MODEL)
    if tuned is None:
        raise InputError(
            f"The run {run.run_id} has no tuned model: its stage {_TUNED_MODEL} has not finished. Name the folder of another "
            "stage's model, <workspace>/pretrain/<key>, to export that."
        )
    if tuned.folder is None:
        looked = " or ".join(str(workspace / _TUNED_MODEL / tuned.key) for workspace in run.workspaces)
        raise InputError(f"The tuned model of the run {run.run_id} is not here: {looked}. Mount its workspace.")
    return tuned.folder, run.folder.settings() if run.folder is not None else {}
