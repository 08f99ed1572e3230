"""Is a training checkpoint whole? Each lists its files with size and SHA-256, written last.

The checksums are computed in the background, right after a file was written and while it is still in memory. Before
a resume every file is read once against them, divided among all ranks. It costs one more reading of what is loaded
anyway, and finds what a size doesn't tell: a flipped bit in an optimizer's state would go unnoticed for ever.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from components.errors import StageError
from components.files import FileEntry
from components.storage.atomic import write_json
from components.storage.checksum import sha256_file
from components.training.layout import FILES_NAME, checkpoints, set_aside

_FILES = TypeAdapter(dict[str, FileEntry])


def file_entry(path: Path) -> FileEntry:
    """Return size and checksum of a file."""
    return FileEntry(size=path.stat().st_size, sha256=sha256_file(path))


def write_file_list(folder: Path, entries: Mapping[str, FileEntry]) -> None:
    """Write the list of a checkpoint's files, by their path relative to it."""
    write_json(folder / FILES_NAME, {name: entry.model_dump() for name, entry in sorted(entries.items())})


def problems(folder: Path, share: int = 0, shares: int = 1) -> list[str]:
    """Return what is wrong with a checkpoint: files that are missing, cut off or altered.

    Args:
        folder: The checkpoint.
        share: Which share of the files is read.
        shares: Number of shares; all together read everything.
    """
    try:
        entries = _FILES.validate_python(json.loads((folder / FILES_NAME).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return [f"{FILES_NAME} is missing"]
    except (OSError, ValueError, ValidationError) as error:
        return [f"{FILES_NAME} can't be read: {error}"]
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
        StageError: There are checkpoints, but all are broken.
    """
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    listed: list[list[Path]] = [checkpoints(folder) if rank == 0 else []]
    torch.distributed.broadcast_object_list(listed, src=0)  # file systems may show other ranks another list
    broken: dict[Path, list[str]] = {}
    for path in reversed(listed[0]):
        found: list[list[str]] = [[]] * world_size
        torch.distributed.all_gather_object(found, problems(path, rank, world_size))
        wrong = sorted({problem for part in found for problem in part})
        if not wrong:
            if rank == 0:
                for bad, why in broken.items():
                    print(
                        f"WARNING: {stage}: the training checkpoint {bad} is broken: {'; '.join(why)}. It is kept as "
                        f"{set_aside(bad).name}; training goes on from {path.name}, the newest whole one.",
                        flush=True,
                    )
            torch.distributed.barrier()
            return path
        broken[path] = wrong
    if broken:
        each = "; ".join(f"{path.name}: {', '.join(why)}" for path, why in broken.items())
        raise StageError(
            f"No training checkpoint below {folder} is whole: {each}. Restore one from a backup, or delete {folder} to "
            "train from the beginning."
        )
    return None


def _problem(path: Path, name: str, entry: FileEntry) -> str | None:
    try:
        size = path.stat().st_size
        if size != entry.size:
            return f"{name} has {size} bytes instead of {entry.size}"
        if sha256_file(path) != entry.sha256:
            return f"{name} was altered: its SHA-256 is another one"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} can't be read: {error}"
    return None
