"""How many of a task's pictures and questions the model was trained on: what its conversions found, said beside the score."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.context import RunContext
from components.data.asked_questions import found_in, question_hash
from components.runs.lineage import StageRecord, upstream_stages
from components.storage.checksum import sha256_file
from components.wds_conversion.config import EVALUATION_PICTURES, QUESTIONS_FOLDER, SEEN_FILE

_CONVERSION = "wds_conversion/"
_SPLIT = "energon_split/"


class SeenInTraining(BaseModel):
    """What is known of a task's pictures and questions in the training data.

    Attributes:
        pictures: Pictures of the task.
        seen: How many of them training shows; None where that is not known.
        why: Why it is not known.
        questions: Different questions of the task, but for case, blanks and punctuation.
        asked: How many of them training asks, of whatever picture; None where that is not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: int
    seen: int | None = None
    why: str = ""
    questions: int = 0
    asked: int | None = None

    @property
    def sentence(self) -> str:
        """What is said beside the score."""
        if self.seen is None:
            said = f"Whether training saw any of the {self.pictures:,} test pictures is not known: {self.why}."
        else:
            said = f"{self.seen:,} of {self.pictures:,} test pictures seen in training."
        if self.questions and self.asked is not None:
            said += f" {self.asked:,} of its {self.questions:,} different questions asked in training, of any picture."
        return said


def seen_in_training(
    context: RunContext, model: Path, raw: Path, names: Collection[str], questions: Collection[str] = ()
) -> SeenInTraining:
    """Ask the conversions that a model's training data came from.

    Args:
        context: The pipeline run.
        model: The model folder.
        raw: The raw dataset folder with the task's pictures.
        names: The task's pictures.
        questions: The task's questions; empty ones ask nothing.
    """
    pictures = set(names)
    stages = upstream_stages(context, [model])
    conversions = [record for record in stages if _is_conversion(record.manifest.stage)]
    blends = [record.manifest for record in stages if record.manifest.stage.startswith(_SPLIT)]
    problem = "" if conversions else "the model's training data is not here"
    blended = any(manifest.facts.get("blended_with") for manifest in blends)
    if blended:
        problem = "the datasets of `blend_with` were not looked at"
    path = raw / EVALUATION_PICTURES
    listed = sha256_file(path) if path.is_file() else ""
    wanted = {question_hash(text) for text in questions if text.strip()}
    asked = _asked(conversions, wanted) if conversions and not blended else None
    seen: set[str] = set()
    for record in conversions:
        problem = problem or _problem(record.manifest.stage, record.manifest.facts.get("decontamination"), listed)
        if not problem:
            lines = (record.folder / SEEN_FILE).read_text(encoding="utf-8").splitlines()
            seen |= {row["test_picture"] for row in map(json.loads, lines) if row["trained_on"]}
    return SeenInTraining(
        pictures=len(pictures),
        seen=None if problem else len(seen & pictures),
        why=problem,
        questions=len(wanted),
        asked=asked,
    )


def _asked(conversions: Sequence[StageRecord], wanted: set[int]) -> int | None:
    """Return how many questions the conversions' samples ask; None if one of them did not note what is asked."""
    if not all("questions_noted" in record.manifest.facts for record in conversions):
        return None
    return len(set().union(*(found_in(record.folder / QUESTIONS_FOLDER, wanted) for record in conversions)))


def _is_conversion(stage: str) -> bool:
    return stage.startswith(_CONVERSION) and not stage.endswith("/parts")


def _problem(stage: str, facts: Any, listed: str) -> str:
    if not isinstance(facts, dict):
        return f"{stage} was done by an older version"
    if facts["mode"] == "off":
        return f"`decontaminate` of {stage} is off"
    if facts["compared_with"] != listed or not listed:
        return f"{stage} was compared with the pictures of other evaluation data"
    return ""
