"""A fixed set of samples for people to look at: picture, prompt, answers, truth."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.data.pictures import Pictures
from components.errors import StageError
from components.pages.pictures import side_by_side, thumbnail
from components.storage.atomic import open_atomic, write_text
from components.tasks.kind import Answer
from components.tasks.sample import HeldOutSample
from components.tasks.template import lettered

SAMPLES_FILE = "samples.json"
PICTURES_FOLDER = "pictures"


class ShownSample(BaseModel):
    """One sample with its picture.

    Attributes:
        id: The sample's id.
        picture: Path of the thumbnail of its pictures, relative to the evaluation folder.
        prompt: The human turn; empty where the picture alone was shown.
        question: The question alone; empty where none was asked.
        options: Texts of options A, B, ...; empty where the answer is open.
        answer: The right letter, where there are options.
        category: Its group.
        references: True captions, or accepted answers.
        answers: "none" (the model proper) or control to what it said.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    picture: str
    prompt: str = ""
    question: str = ""
    options: tuple[str, ...] = ()
    answer: str = ""
    category: str = ""
    references: tuple[str, ...] = ()
    answers: dict[str, Answer]

    @property
    def lettered(self) -> list[tuple[str, str]]:
        """The options with their letters."""
        return lettered(self.options)


class Samples(BaseModel):
    """What `samples.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    samples: list[ShownSample]


def choose_rows(samples: Sequence[HeldOutSample], count: int) -> list[int]:
    """Choose rows to show: the same ones for every model, whatever it answers, and every category in turn.

    The order follows a hash of the ids, so that the choice favours nothing and stays when the dataset grows.
    """
    order = sorted(range(len(samples)), key=lambda row: hashlib.sha256(samples[row].id.encode()).digest())
    place_in_category: dict[str, int] = {}
    ranked: list[tuple[int, int, int]] = []
    for row in order:
        category = samples[row].category
        place_in_category[category] = place_in_category.get(category, -1) + 1
        ranked.append((place_in_category[category], len(ranked), row))
    return [row for _, _, row in sorted(ranked)[:count]]


def save_thumbnail(pictures: Pictures, sample: HeldOutSample, folder: Path) -> str:
    """Write the pictures that a sample shows, small and each once; return the file's path relative to `folder`."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", sample.id)[:60]
    name = f"{PICTURES_FOLDER}/{safe}-{hashlib.sha256(sample.id.encode()).hexdigest()[:8]}.jpg"
    with open_atomic(folder / name) as stream:
        stream.write(thumbnail(side_by_side([pictures.open(name) for name in dict.fromkeys(sample.pictures)])))
    return name


def write_samples(folder: Path, samples: Samples) -> None:
    """Write `samples.json` atomically."""
    write_text(folder / SAMPLES_FILE, samples.model_dump_json(indent=2) + "\n")


def read_samples(folder: Path) -> Samples:
    """Read the samples of a finished evaluation.

    Raises:
        StageError: The file is missing or of another layout.
    """
    path = folder / SAMPLES_FILE
    try:
        return Samples.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise StageError(f"{path} does not hold samples: {error}. Run the evaluation again.") from error
