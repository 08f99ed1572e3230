"""A training of twelve steps, as small as it can be: what tests on the CPU and on a GPU share."""

from pathlib import Path

from components.training.config import Recipe
from components.training.spec import TrainingSpec

ITERATIONS = 12
RECIPE = {
    "train_language": True,
    "train_vision": True,
    "prompt_format": "plain",
    "iterations": ITERATIONS,
    "global_batch_size": 8,
    "sequence_length": 512,
    "learning_rate": 1e-3,
    "min_learning_rate": 1e-4,
    "warmup_fraction": 0.1,
    "evaluation_interval": 6,
    "evaluation_samples": 8,
    "save_interval": 3,
    "log_interval": 1,
    "shuffle_buffer": 50,
}


def write_spec(model: Path, dataset: Path, folder: Path, tensor_parallel: int, **recipe: object) -> Path:
    """Write what a training process reads, and return its path.

    Args:
        model: Model folder to start from.
        dataset: Energon dataset.
        folder: The output folder, which gets the file.
        tensor_parallel: Processes that share the model.
        **recipe: What is other than in `RECIPE`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec = TrainingSpec(
        stage="pretrain",
        recipe=Recipe.model_validate({**RECIPE, **recipe}),
        tensor_parallel=tensor_parallel,
        model_folder=model,
        dataset_folder=dataset,
        output_folder=folder,
    )
    path = folder / "spec.json"
    path.write_text(spec.model_dump_json())
    return path
