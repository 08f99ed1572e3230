"""Names and places of training checkpoints.

`<output>/training/iter_0000100/` is complete. With `.tmp` behind the name it is being written or removed, with `.broken` it was
found damaged and set aside.
"""

import re
import shutil
from itertools import count
from pathlib import Path

FILES_NAME = "files.json"
FACTS_NAME = "counters.json"
KEPT_FOLDER = "kept"
"""Below a finished training's output: checkpoints that stay, as model folders."""

_NAME = re.compile(r"iter_(\d+)")
_UNFINISHED = ".tmp"


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint below `folder`."""
    return folder / f"iter_{step:07d}"


def kept_folder(output: Path, step: int) -> Path:
    """Return the model folder of a checkpoint that stays after the training."""
    return output / KEPT_FOLDER / f"step_{step:07d}"


def unfinished(checkpoint: Path) -> Path:
    """Return where a checkpoint is written before it is complete."""
    return checkpoint.with_name(checkpoint.name + _UNFINISHED)


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete training checkpoints below `folder`, oldest first."""
    found = [path for path in folder.glob("iter_*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint's folder."""
    match = _NAME.match(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint} is not the folder of a training checkpoint")
    return int(match[1])


def clear_unfinished(folder: Path) -> None:
    """Remove what interrupted writes and removals have left."""
    for path in folder.glob(f"iter_*{_UNFINISHED}"):
        shutil.rmtree(path)


def set_aside(checkpoint: Path) -> Path:
    """Rename a broken checkpoint and return its new path."""
    names = (f"{checkpoint.name}.broken{number if number > 1 else ''}" for number in count(1))
    target = next(path for name in names if not (path := checkpoint.with_name(name)).exists())
    return checkpoint.rename(target)
