"""The held-out samples of a task, read from a raw dataset folder."""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Self

from PIL import Image

from components.data.image_roots import DEFAULT_FOLDER, DEFAULT_ZIP, ImageIndex, ImageReader
from components.errors import InputError
from components.generate.task import Task
from components.tasks.sample import HeldOutSample


def load_samples(raw: Path, task: Task, limit: int = 0) -> list[HeldOutSample]:
    """Read the ground truth of a task.

    Args:
        raw: Raw dataset folder.
        task: The task.
        limit: Return only the first samples; 0 for all.

    Returns:
        Samples in the file's order, with the prompts that are put to the model.

    Raises:
        InputError: The file is missing, has another layout, or repeats an id.
    """
    path = raw / task.dataset
    if not path.is_file():
        raise InputError(
            f"The task {task.name} needs {path}, which does not exist. Add the file to the raw dataset folder: "
            "components/download/README.md says how each comes there."
        )
    kind = task.rules
    try:
        samples = kind.load(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The ground truth {path} can't be read: {error}") from error
    if not samples:
        raise InputError(f"{path} holds no samples.")
    repeated = [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]
    if repeated:
        raise InputError(f"{path} has several samples with the same id: {', '.join(repeated[:5])}. Ids must be unique.")
    wanted = samples[:limit] if limit else samples
    return [replace(sample, prompt=kind.ask(task, sample)) for sample in wanted]


class Pictures:
    """Reads pictures of a raw dataset.

    Args:
        raw: Raw dataset folder.

    Raises:
        InputError: It has no pictures, or they can't be opened.
    """

    def __init__(self, raw: Path) -> None:
        self._raw = raw
        self._index = ImageIndex(raw)
        if not self._index.sources:
            raise InputError(f"{raw} has neither {DEFAULT_ZIP} nor a folder {DEFAULT_FOLDER}/.")
        self._reader = ImageReader(self._index.sources)

    def __enter__(self) -> Self:
        """Return the reader; the archives are closed with the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the archives."""
        self._reader.__exit__(*error)

    def open(self, name: str) -> Image.Image:
        """Return a picture in RGB.

        Raises:
            InputError: The picture is missing, lies outside the dataset, or can't be decoded.
        """
        place = self._index.find(name)
        if place is None:
            raise InputError(f"There is no picture {name!r} in {self._raw}, or it lies outside.")
        try:
            return Image.open(io.BytesIO(self._reader.read(place))).convert("RGB")
        except (InputError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(f"The picture {name!r} in {self._raw} can't be read: {error}") from error
