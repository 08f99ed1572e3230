"""Commands for models: export."""

import argparse
import warnings
from pathlib import Path

from pipelines.cli.arguments import CommandGroup, add_overrides


def add_commands(group: CommandGroup) -> None:
    """Add this group's commands."""
    export = group.add("export", _export, "write a finished model folder as a folder that transformers loads")
    export.add_argument(
        "model", metavar="MODEL_FOLDER", type=Path, help="folder of a finished training or combine stage"
    )
    export.add_argument("-o", "--output", metavar="FOLDER", type=Path, required=True, help="the new folder")
    add_overrides(export, "export.custom_code=true")


def _export(options: argparse.Namespace) -> int:
    from components.export.stage import export_to
    from pipelines.config import export_settings

    warnings.filterwarnings("ignore", module=r"(megatron|torch)\.")  # their own deprecations
    export_to(export_settings(options.overrides), options.model.absolute(), options.output.absolute())
    print(options.output)
    return 0
