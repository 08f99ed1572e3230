"""How many of a task's pictures the model was trained on: what its conversions found, said beside the score."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.context import RunContext
from components.runs.lineage import upstream_stages
from components.storage.checksum import sha256_file
from components.wds_conversion.config import EVALUATION_PICTURES, SEEN_FILE

_CONVERSION = "wds_conversion/"
_SPLIT = "energon_split/"


class SeenInTraining(BaseModel):
    """What is known of a task's pictures in the training data.

    Attributes:
        pictures: Pictures of the task.
        seen: How many of them training shows; None where that is not known.
        why: Why it is not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: int
    seen: int | None = None
    why: str = ""

    @property
    def sentence(self) -> str:
        """What is said beside the score."""
        if self.seen is None:
            return f"Whether training saw any of the {self.pictures:,} test pictures is not known: {self.why}."
        return f"{self.seen:,} of {self.pictures:,} test pictures seen in training."


def seen_in_training(context: RunContext, model: Path, raw: Path, names: Collection[str]) -> SeenInTraining:
    """Ask the conversions that a model's training data came from.

    Args:
        context: The pipeline run.
        model: The model folder.
        raw: The raw dataset folder with the task's pictures.
        names: The task's pictures.
    """
    pictures = set(names)
    stages = upstream_stages(context, [model])
    conversions = [record for record in stages if _is_conversion(record.manifest.stage)]
    blends = [record.manifest for record in stages if record.manifest.stage.startswith(_SPLIT)]
    problem = "" if conversions else "the model's training data is not here"
    if any(manifest.facts.get("blended_with") for manifest in blends):
        problem = "the datasets of `blend_with` were not looked at"
    path = raw / EVALUATION_PICTURES
    listed = sha256_file(path) if path.is_file() else ""
    seen: set[str] = set()
    for record in conversions:
        problem = problem or _problem(record.manifest.stage, record.manifest.facts.get("decontamination"), listed)
        if not problem:
            lines = (record.folder / SEEN_FILE).read_text(encoding="utf-8").splitlines()
            seen |= {row["test_picture"] for row in map(json.loads, lines) if row["trained_on"]}
    if problem:
        return SeenInTraining(pictures=len(pictures), why=problem)
    return SeenInTraining(pictures=len(pictures), seen=len(seen & pictures))


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
