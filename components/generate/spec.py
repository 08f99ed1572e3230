"""What a generating process is told; imports nothing heavy, for the stage that only starts such processes."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from components.generate.config import GenerateConfig
from components.tasks.task import Task

PREDICTIONS_FILE = "predictions.jsonl"
FACTS_FILE = "generation.json"


class GenerationSpec(BaseModel):
    """What a generating process is told.

    Attributes:
        config: The stage's settings.
        task: The loaded task.
        model: Model folder.
        raw: Raw dataset folder.
        partition: Number of the partition, from 0.
        generation: Hash of everything that decides the predictions, written into each of them.
        output: Folder that gets `predictions.jsonl` and `generation.json`.
        progress_stage: Name shown in progress.
        progress_file: Progress file for displays, or None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: GenerateConfig
    task: Task
    model: Path
    raw: Path
    partition: int
    generation: str
    output: Path
    progress_stage: str
    progress_file: Path | None = None
