"""What a model said of held-out pictures while it learned, a file per step: light to write and to read."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from components.storage.atomic import write_json

ZERO_SHOT_FOLDER = "zero_shot"
_PREFIX = "step_"


@dataclass(frozen=True)
class Described:
    """A held-out picture at one step.

    Attributes:
        step: The step.
        answer: The sample's own first answer.
        said: The model's text.
        question: What was asked; empty where the picture stands alone.
    """

    step: int
    answer: str
    said: str
    question: str = ""


def step_path(folder: Path, step: int, suffix: str) -> Path:
    """Return the path of what is kept of one step below a training's output folder."""
    return folder / ZERO_SHOT_FOLDER / f"{_PREFIX}{step:07d}{suffix}"


def write_texts(folder: Path, step: int, samples: Sequence[Described]) -> None:
    """Write what the model said at a step.

    Args:
        folder: The training's output folder.
        step: The step.
        samples: What it said of each held-out picture.
    """
    write_json(step_path(folder, step, ".json"), [asdict(sample) for sample in samples])


def read_texts(folder: Path) -> list[list[Described]]:
    """Return what was said, the earliest step first; the samples are the same at every step."""
    paths = sorted((folder / ZERO_SHOT_FOLDER).glob(f"{_PREFIX}*.json"))
    return [[Described(**row) for row in json.loads(path.read_text(encoding="utf-8"))] for path in paths]
