"""Is a training checkpoint whole? Each lists its files with size and SHA-256, written last.

The checksums are computed in the background, right after a file was written and while it is still in memory. Before
a resume every file is read once against them, divided among all ranks. It costs one more reading of what is loaded
anyway, and finds what a size doesn't tell: a flipped bit in an optimizer's state would go unnoticed for ever.

Only a proof condemns a checkpoint: a file that is not there, has another size or another checksum. A file that can't be read proves
nothing: it is tried again for some seconds, and then the run stops and leaves everything as it is.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from components.errors import StageError
from components.files import FileEntry
from components.model.distributed import on_every_rank, on_first_rank
from components.storage.atomic import write_json
from components.storage.checksum import sha256_file
from components.storage.volume import read_bytes, read_patiently
from components.training.checkpoint.layout import FILES_NAME, checkpoints, set_aside

_FILES = TypeAdapter(dict[str, FileEntry])


def file_entry(path: Path) -> FileEntry:
    """Return size and checksum of a file.

    Raises:
        FileNotFoundError: It is missing.
        StageError: The volume fails; see `components.storage.volume`.
    """
    return read_patiently(lambda: FileEntry(size=path.stat().st_size, sha256=sha256_file(path)), path)


def write_file_list(folder: Path, entries: Mapping[str, FileEntry]) -> None:
    """Write the list of a checkpoint's files, by their path relative to it."""
    write_json(folder / FILES_NAME, {name: entry.model_dump() for name, entry in sorted(entries.items())})


def problems(folder: Path, share: int = 0, shares: int = 1) -> list[str]:
    """Return what is wrong with a checkpoint: files that are missing, cut off or altered.

    Args:
        folder: The checkpoint.
        share: Which share of the files is read.
        shares: Number of shares; all together read everything.

    Raises:
        StageError: A file can't be read, so that nothing can be said.
    """
    try:
        entries = _FILES.validate_json(read_bytes(folder / FILES_NAME))
    except (FileNotFoundError, NotADirectoryError):
        return [f"{FILES_NAME} is missing"]
    except ValidationError as error:
        return [f"{FILES_NAME} is no list of files: {error.errors()[0]['msg']}"]
    # The largest first, in turn: the shares become about equal.
    by_size = sorted(entries, key=lambda name: (-entries[name].size, name))
    found = [_problem(folder / name, name, entries[name]) for name in by_size[share::shares]]
    return [problem for problem in found if problem]


def newest_whole(folder: Path, stage: str) -> Path | None:
    """Return the newest checkpoint that is whole, the same on all ranks; every rank calls this.

    Broken ones that are newer are named loudly and set aside (`*.broken`).

    Args:
        folder: `<output>/training`.
        stage: Name for messages.

    Returns:
        The checkpoint, or None where there is none at all.

    Raises:
        StageError: There are checkpoints, but all are broken. Or the volume fails: no older checkpoint is taken instead.
    """
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    broken: dict[Path, list[str]] = {}
    # The first rank's list: file systems may show other ranks another one.
    for path in reversed(on_first_rank(partial(checkpoints, folder))):
        found = on_every_rank(partial(problems, path, rank, world_size))
        wrong = sorted({problem for part in found for problem in part})
        if not wrong:
            on_first_rank(partial(_set_aside, broken, path, stage))
            return path
        broken[path] = wrong
    if broken:
        each = "; ".join(f"{path.name}: {', '.join(why)}" for path, why in broken.items())
        raise StageError(
            f"No training checkpoint below {folder} is whole: {each}. Restore one from a backup, or delete {folder} to "
            "train from the beginning."
        )
    return None


def _set_aside(broken: Mapping[Path, list[str]], newest: Path, stage: str) -> None:
    for path, why in broken.items():
        print(
            f"WARNING: {stage}: the training checkpoint {path} is broken: {'; '.join(why)}. It is kept as "
            f"{set_aside(path).name}; training goes on from {newest.name}, the newest whole one.",
            flush=True,
        )


def _problem(path: Path, name: str, entry: FileEntry) -> str | None:
    try:
        size = read_patiently(path.stat, path).st_size
        if size != entry.size:
            return f"{name} has {size} bytes instead of {entry.size}"
        if read_patiently(lambda: sha256_file(path), path) != entry.sha256:
            return f"{name} was altered: its SHA-256 is another one"
    except (FileNotFoundError, NotADirectoryError):
        return f"{name} is missing"
    return None
