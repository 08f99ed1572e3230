"""What the commands share: how they are listed, and arguments that several of them take."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.runs.find import Places

INTERRUPTED_STATUS = 130
_ENDPOINT_VARIABLE = "KF_PIPELINES_ENDPOINT"  # KFP's own name for it

Command = Callable[[argparse.Namespace], int]


class CommandGroup:
    """Commands that `vlm --help` shows together.

    Args:
        title: What they have in common.
        subparsers: Where argparse keeps all commands.
    """

    def __init__(self, title: str, subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        self._subparsers = subparsers
        self._lines = [f"{title}:"]

    def add(self, name: str, command: Command, summary: str) -> argparse.ArgumentParser:
        """Add a command.

        Args:
            name: What is typed.
            command: Is called with the parsed options and returns the exit status.
            summary: Its line of `vlm --help`.

        Returns:
            The command's own parser, for its arguments.
        """
        parser = self._subparsers.add_parser(name, description=f"{summary[:1].upper()}{summary[1:]}.")
        parser.set_defaults(command=command)
        self._lines.append(f"  {name:<9} {summary}")
        return parser

    def overview(self) -> str:
        """Return the title and a line for each command."""
        return "\n".join(self._lines)


def add_preset(parser: argparse.ArgumentParser, default: str | None = "laptop") -> None:
    """Add the arguments that choose a run's settings."""
    shown = f" (default: {default})" if default else ""
    parser.add_argument("--preset", default=default, help=f"name of a preset, or path of a YAML file{shown}")
    add_overrides(parser, "pretrain.recipe.iterations=500")


def add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    """Add the argument that changes single settings."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"change a setting, as {example}; may be repeated",
    )


RUN_HELP = (
    "a run's folder, id, name (the newest of that name) or the beginning of its id, an MLflow run id, or a registered "
    "model, models:/NAME@ALIAS"
)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that find a run."""
    parser.add_argument("run", nargs="?", default="", metavar="RUN", help=f"{RUN_HELP} (default: the newest run)")
    add_places(parser)


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where runs are looked for."""
    parser.add_argument("--workspace", metavar="DIR", default=None, help="where it ran (default: the laptop preset's)")
    add_tracking_uri(parser)


def add_tracking_uri(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names MLflow."""
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        default=os.environ.get("MLFLOW_TRACKING_URI", ""),
        help="MLflow, for runs that the workspace does not have (default: $MLFLOW_TRACKING_URI, else the workspace's database)",
    )


def places_of(options: argparse.Namespace) -> "Places":
    """Return where runs are looked for."""
    from components.runs.find import Places

    return Places.of(workspace_of(options.workspace), options.tracking_uri)


def add_endpoint(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add the arguments that reach a cluster's Kubeflow Pipelines."""
    endpoint = os.environ.get(_ENDPOINT_VARIABLE)
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        default=endpoint,
        required=required and not endpoint,
        help=f"Kubeflow Pipelines' API (default: ${_ENDPOINT_VARIABLE})",
    )
    parser.add_argument("--namespace", default="", help="your namespace, on a multi-user installation (default: KFP's)")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="file with a bearer token for the endpoint")


def workspace_of(option: str | None) -> Path:
    """Return the workspace that was asked for, else the laptop preset's."""
    if option is not None:
        return Path(option).absolute()
    from pipelines.preset_files import load_preset

    return load_preset("laptop").workspace.absolute()


def quoted(text: str) -> str:
    """Return a text as a YAML scalar that is nothing but this text."""
    return "'" + text.replace("'", "''") + "'"
