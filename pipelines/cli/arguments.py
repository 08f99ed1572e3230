"""What the commands share: how they are listed, and arguments that several of them take."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

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


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that find a run of this machine."""
    parser.add_argument("run", nargs="?", default="", help="id of a run, or its beginning (default: the latest)")
    parser.add_argument("--workspace", metavar="DIR", default=None, help="where it ran (default: the laptop preset's)")


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
    parser.add_argument("--namespace", default="", help="your namespace, on a multi-user installation")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="file with a bearer token for the endpoint")


def workspace_of(option: str | None) -> Path:
    """Return the workspace that was asked for, else the laptop preset's."""
    if option is not None:
        return Path(option).absolute()
    from pipelines.config import load_preset

    return load_preset("laptop").workspace.absolute()


def quoted(text: str) -> str:
    """Return a text as a YAML scalar that is nothing but this text."""
    return "'" + text.replace("'", "''") + "'"
