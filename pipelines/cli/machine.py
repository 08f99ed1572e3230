"""Commands for this machine: run."""

import argparse
import sys
from pathlib import Path

from pipelines.cli.arguments import INTERRUPTED_STATUS, CommandGroup, add_preset, quoted


def add_commands(group: CommandGroup) -> None:
    """Add this group's commands."""
    run = group.add("run", _run, "run the pipeline on this machine; finished work is reused")
    add_preset(run)
    run.add_argument("--workspace", metavar="DIR", help="root folder of all outputs (default: the preset's)")
    run.add_argument("--name", help="name of the run (default: the preset's)")
    run.add_argument(
        "--runner",
        choices=("process", "docker"),
        default="process",
        help="run stages as processes, or as containers of cluster.cpu_image (default: process)",
    )


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from pipelines.local_run import Interrupted, run_here
    from pipelines.preset_files import load_preset
    from pipelines.summary import print_summary

    overrides = list(options.overrides)
    if options.workspace:
        overrides.append(f"workspace={quoted(str(Path(options.workspace).absolute()))}")
    if options.name:
        overrides.append(f"name={quoted(options.name)}")
    config = load_preset(options.preset, overrides)
    console = Console()
    try:
        run, status = run_here(config, options.preset, overrides, console, options.runner)
    except Interrupted as interruption:
        print(f"interrupted ({interruption}): all processes have ended; run again to go on", file=sys.stderr)
        return INTERRUPTED_STATUS
    print_summary(run, console)
    if status:
        print(f"ERROR: {run.error()}\nThe whole output is in {run.log}", file=sys.stderr)
    return status
