"""What to try after a run of this machine: commands that work as they stand."""

import shlex
import sys
from pathlib import Path

from components.runs.folder import RunFolder

_DEFAULT_WORKSPACE = "workspace"  # that of the laptop preset, which commands look in by themselves
OWN_DATA = "file:///path/to/folder"


def next_steps(run: RunFolder) -> list[tuple[str, str]]:
    """Return commands for a finished run, each with what it does.

    Args:
        run: The run.
    """
    vlm = program("vlm")
    place = (
        ""
        if run.workspace == Path(_DEFAULT_WORKSPACE).absolute()
        else f" --workspace {shlex.quote(str(run.workspace))}"
    )
    name = shlex.quote(run.name or run.run_id)
    preset = shlex.quote(str(run.record().get("preset") or "laptop"))
    return [
        (f"{vlm} report {name} --open{place}", "the page with everything, in the browser"),
        (f"{vlm} export {name} -o my-model{place}", "the model, as a folder that transformers loads"),
        (
            f"{vlm} run --preset {preset} --set data.source={OWN_DATA} --name my-data{place}",
            "the same with your own pictures and captions (README, Your own data)",
        ),
    ]


def program(name: str) -> str:
    """Return how to call a program of this environment from here, activated or not."""
    path = Path(sys.executable).with_name(name)
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
