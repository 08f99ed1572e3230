"""Writes a stage's skeleton: folders appear whole or not at all."""

import keyword
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from components.errors import ConfigurationError

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_ROOM = ("__init__.py", "README.md", "config.py", "stage.py", "component.py")
_TESTS = ("__init__.py", "test_stage.py")
_NEXT_STEPS = "next_steps.txt"


def write_skeleton(root: Path, name: str) -> list[Path]:
    """Write the room and the test of a new stage.

    Args:
        root: Checkout of this repository.
        name: Name of the stage.

    Returns:
        The files.

    Raises:
        ConfigurationError: The name can't be a stage's, or is taken.
    """
    _check(root, name)
    parts = {root / "components" / name: ("", _ROOM), root / "tests" / "unit" / name: ("tests/", _TESTS)}
    written: list[Path] = []
    with tempfile.TemporaryDirectory(prefix=".skeleton-", dir=root) as scratch:
        for number, (folder, (prefix, files)) in enumerate(parts.items()):
            draft = Path(scratch) / str(number)
            draft.mkdir()
            for file in files:
                (draft / file).write_text(_rendered(f"{prefix}{file}", name), encoding="utf-8")
                written.append(folder / file)
        _format(Path(scratch))
        moved: list[Path] = []
        try:
            for number, folder in enumerate(parts):
                (Path(scratch) / str(number)).rename(folder)
                moved.append(folder)
        except BaseException:
            for folder in moved:
                shutil.rmtree(folder)
            raise
    return written


def next_steps(name: str) -> str:
    """Return what makes a stage with a skeleton part of the pipeline."""
    return _rendered(_NEXT_STEPS, name)


def _check(root: Path, name: str) -> None:
    if not name:
        raise ConfigurationError("A stage needs a name: make stage NAME=deduplicate")
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigurationError(
            f"{name!r} can't be a stage's name: lower-case words of letters and digits, joined by _, as wds_conversion."
        )
    places = [root / "components" / name, root / "components" / f"{name}.py", root / "tests" / "unit" / name]
    if taken := [str(path.relative_to(root)) for path in places if path.exists()]:
        raise ConfigurationError(f"The name {name} is taken: {', '.join(taken)} exists. Choose another.")


def _format(folder: Path) -> None:
    """Sort imports and break lines, which depend on the name."""
    for command in (("check", "--fix", "--select", "I"), ("format",)):
        result = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(folder)], capture_output=True, text=True, check=False
        )
        if result.returncode:
            raise ConfigurationError(f"ruff can't format the skeleton; make install installs it: {result.stderr}")


def _rendered(file: str, name: str) -> str:
    templates = Environment(
        loader=PackageLoader("pipelines.skeleton"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    class_name = "".join(word.capitalize() for word in name.split("_"))
    return templates.get_template(f"{file}.j2").render(name=name, class_name=class_name)
