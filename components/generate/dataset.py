"""The held-out samples of a task, read from a raw dataset folder."""

import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.data.image_roots import DEFAULT_FOLDER, DEFAULT_ZIP, ImageIndex, ImageReader
from components.errors import InputError
from components.generate.task import LETTERS, Task


@dataclass(frozen=True)
class HeldOutSample:
    """One sample of a task.

    Attributes:
        id: Unique in the dataset.
        image: Name of the picture, as components/data/image_roots.py finds it.
        prompt: The human turn; empty where the picture alone is shown.
        references: Captioning: the true captions, at least one.
        question: Multiple choice: the question alone.
        options: Multiple choice: the texts of options A, B, ...
        answer: Multiple choice: the right letter.
        category: Multiple choice: group that is scored on its own; empty for none.
    """

    id: str
    image: str
    prompt: str
    references: tuple[str, ...] = ()
    question: str = ""
    options: tuple[str, ...] = ()
    answer: str = ""
    category: str = ""


class _CocoImage(BaseModel):
    id: int
    file_name: str


class _CocoAnnotation(BaseModel):
    image_id: int
    caption: str = Field(min_length=1)


class _CocoCaptions(BaseModel):
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]


class _Question(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: str
    image: str
    question: str
    options: list[str] = Field(min_length=2, max_length=len(LETTERS))
    answer: str
    category: str = ""


def load_samples(raw: Path, task: Task, limit: int = 0) -> list[HeldOutSample]:
    """Read the ground truth of a task.

    Args:
        raw: Raw dataset folder.
        task: The task.
        limit: Return only the first samples; 0 for all.

    Returns:
        Samples in the file's order.

    Raises:
        InputError: The file is missing, has another layout, repeats an id, or a picture has no caption.
    """
    path = raw / task.dataset
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"The task {task.name} needs {path}: {error.strerror}. Add the file to the raw dataset folder."
        ) from error
    samples = _captions(path, text, task) if task.kind == "captioning" else _questions(path, text, task)
    if not samples:
        raise InputError(f"{path} holds no samples.")
    repeated = [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]
    if repeated:
        raise InputError(f"{path} has several samples with the same id: {', '.join(repeated[:5])}. Ids must be unique.")
    return samples[:limit] if limit else samples


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


def _captions(path: Path, text: str, task: Task) -> list[HeldOutSample]:
    try:
        content = _CocoCaptions.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path} is not a COCO caption file ({_first(error)}).") from error
    references: dict[int, list[str]] = {image.id: [] for image in content.images}
    for annotation in content.annotations:
        if annotation.image_id not in references:
            raise InputError(f"{path}: a caption belongs to image {annotation.image_id}, which is not in `images`.")
        references[annotation.image_id].append(annotation.caption)
    bare = [image.file_name for image in content.images if not references[image.id]]
    if bare:
        raise InputError(
            f"{path}: {len(bare)} pictures have no caption, {bare[0]} is the first. Every picture needs one."
        )
    prompt = task.prompt_text()
    return [
        HeldOutSample(str(image.id), image.file_name, prompt, references=tuple(references[image.id]))
        for image in content.images
    ]


def _questions(path: Path, text: str, task: Task) -> list[HeldOutSample]:
    samples = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _Question.model_validate(json.loads(line))
        except (ValidationError, json.JSONDecodeError) as error:
            reason = _first(error) if isinstance(error, ValidationError) else str(error)
            raise InputError(f"{path}, line {number} is not a multiple-choice question ({reason}).") from error
        letters = LETTERS[: len(row.options)]
        if row.answer not in set(letters):
            raise InputError(f"{path}, line {number}: answer {row.answer!r} is not one of the letters {letters}.")
        options = tuple(row.options)
        prompt = task.prompt_text(row.question, options)
        samples.append(
            HeldOutSample(
                row.id,
                row.image,
                prompt,
                question=row.question,
                options=options,
                answer=row.answer,
                category=row.category,
            )
        )
    return samples


def _first(error: ValidationError) -> str:
    problem: Any = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
