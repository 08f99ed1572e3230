"""What a task reads of a raw dataset: its ground truth and the pictures of it. Training data and other tasks may change."""

from collections.abc import Iterable
from pathlib import Path

from components.data.image_roots import ImageRoot, read_image_roots
from components.data.names import canonical_name
from components.errors import StageError
from components.stage.part import Part, part_of
from components.tasks.loading import load_samples
from components.tasks.task import Task


def evaluation_data(raw: Path, task: Task) -> Part:
    """Return ground truth and pictures of a task as an input of a stage.

    Args:
        raw: Finished raw dataset folder.
        task: The task.

    Raises:
        InputError: The ground truth is missing or has another layout.
        StageError: The folder is not finished, or was changed since.
    """
    roots = read_image_roots(raw)
    names = {name for sample in load_samples(raw, task) for name in (sample.image, *sample.images)}
    used = _used(roots, names)
    try:
        return part_of(
            raw, [task.dataset, *sorted({root.source for root in used})], [root.model_dump() for root in used]
        )
    except StageError as error:
        raise StageError(f"{error} The evaluation {task.name} reads it.") from error


def _used(roots: Iterable[ImageRoot], names: Iterable[str]) -> list[ImageRoot]:
    """Return the roots that the pictures belong to, the longest prefix first."""
    left = set(map(canonical_name, names))
    used = []
    for root in roots:
        own = {name for name in left if name.startswith(root.prefix)}
        if own:
            used.append(root)
        left -= own
    return used
