"""The program's parser, put together from the groups of commands."""

import argparse

from pipelines.cli import cancel, cluster, data, doctor, evaluate, machine, model, presets, results, settings, tasks
from pipelines.cli.arguments import CommandGroup

_GROUPS = (
    ("On this machine", (machine, doctor)),
    ("On a cluster", (cluster,)),
    ("Runs and what they gave", (results, cancel)),
    ("Models", (evaluate, model)),
    ("What there is", (presets, settings, tasks, data)),
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `vlm`; it leaves the chosen command's function in `command`, or None."""
    parser = argparse.ArgumentParser(
        prog="vlm",
        usage="vlm COMMAND ...",
        description="Train and evaluate vision-language models with Kubeflow Pipelines.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=None)
    subparsers = parser.add_subparsers(prog="vlm", metavar="COMMAND", help=argparse.SUPPRESS)
    overviews = []
    for title, modules in _GROUPS:
        group = CommandGroup(title, subparsers)
        for commands in modules:
            commands.add_commands(group)
        overviews.append(group.overview())
    parser.epilog = "\n\n".join([*overviews, "`vlm COMMAND --help` explains a command."])
    return parser
