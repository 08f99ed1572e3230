"""Names and places of training checkpoints.

`<output>/training/iter_0000100/` is complete. With `.tmp` behind the name it is being written or removed, with `.broken` it was
found damaged and set aside.
"""

import os
import re
import shutil
from itertools import count
from pathlib import Path

from components.errors import StageError
from components.storage.volume import read_patiently

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
    """Return the complete training checkpoints below `folder`, oldest first; none where there is no such folder.

    Raises:
        StageError: The volume fails: which there are is not known.
    """

    def listed() -> list[Path]:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries if _NAME.fullmatch(entry.name) and entry.is_dir()]

    try:
        return sorted(read_patiently(listed, folder), key=step_of)
    except FileNotFoundError:
        return []


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint's folder."""
    match = _NAME.match(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint} is not the folder of a training checkpoint")
    return int(match[1])


def clear_unfinished(folder: Path) -> None:
    """Remove what interrupted writes and removals have left.

    Raises:
        StageError: The volume does not let go of it.
    """
    for path in folder.glob(f"iter_*{_UNFINISHED}"):
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise StageError(
                f"{path}, left by an interrupted run, can't be removed: {error}. Remove it by hand."
            ) from error


def set_aside(checkpoint: Path) -> Path:
    """Rename a broken checkpoint and return its new path.

    Raises:
        StageError: The volume does not rename it.
    """
    names = (f"{checkpoint.name}.broken{number if number > 1 else ''}" for number in count(1))
    return _renamed(checkpoint, next(path for name in names if not (path := checkpoint.with_name(name)).exists()))


def take_out_of_sight(checkpoint: Path) -> Path:
    """Rename a superseded checkpoint, so that it counts no longer while its files are removed; return its new path.

    Raises:
        StageError: The volume does not rename it.
    """
    return _renamed(checkpoint, unfinished(checkpoint))


def _renamed(path: Path, target: Path) -> Path:
    try:
        return path.rename(target)
    except OSError as error:
        raise StageError(
            f"{path} can't be renamed to {target.name}: {error}. Look at the volume and its rights, and run again."
        ) from error
