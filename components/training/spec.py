"""What a training worker is told by the stage that launches it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from components.training.config import MemoryConfig, Recipe


class TrainingSpec(BaseModel):
    """One training run, as written to `spec.json` beside its output.

    Attributes:
        stage: Name shown in progress and logs.
        recipe: What is learnt.
        tensor_parallel: Processes that share one copy of the model.
        model_folder: Model folder to start from.
        dataset_folder: Output folder of the energon split.
        output_folder: The stage's folder: `training/` holds resumable checkpoints, `metrics.jsonl` the curves,
            `checkpoint/` the final weights.
        memory: How it fits into the devices.
        progress_file: Progress file for displays, or None.
        journal: Where curves go beside `metrics.jsonl`, for MLflow; None for no tracking.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    recipe: Recipe
    tensor_parallel: int
    model_folder: Path
    dataset_folder: Path
    output_folder: Path
    memory: MemoryConfig = MemoryConfig()
    progress_file: Path | None = None
    journal: Path | None = None
