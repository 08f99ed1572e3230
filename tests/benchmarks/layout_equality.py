"""How equal the parallel layouts are: the same training, step by step, in each of them.

    python -m tests.benchmarks.layout_equality [--iterations 20] [--keep FOLDER]

Trains a small model in float32 from the same start with tensor parallel (TP) 1, 2, 4, data parallel (DP) 2, and both 2, in
real processes on gloo, and prints the largest differences from one process: of the loss of a step, of its gradient norm,
and of the weights at the end. Pretraining trains the projector alone, SFT the language model too; no dropout. The global
batches are the same, so what differs is the order of floating-point sums.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from components.context import RunContext
from components.training.config import Recipe
from components.training.spec import TrainingSpec
from pipelines.preset_files import load_preset
from tests.support.layouts import OTHERS, REFERENCE, difference, same_batches, train_in
from tests.support.small_chain import Prepared, prepare

RECIPES = {
    "pretraining": {"train_language": False, "train_vision": False, "prompt_format": "plain"},
    "SFT": {"train_language": True, "train_vision": False, "prompt_format": "instruct"},
    "all parts": {"train_language": True, "train_vision": True, "prompt_format": "plain"},
}
MODEL = [
    "data.scenes.pictures=300",
    "data.scenes.held_out_pictures=20",
    "weights.language.num_attention_heads=8",
    "weights.language.num_key_value_heads=4",
    "weights.language.head_dim=16",
]


def main() -> None:
    """Train in every layout and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="folder that the trainings stay in")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp())
    config = load_preset("laptop", MODEL)
    context = RunContext(run_id="benchmark", run_name="benchmark", workspace=folder / "workspace")
    prepared = prepare(config, context)
    table = ["| recipe | layout | loss | gradient norm (relative) | weights |", "|---|---|---|---|---|"]
    for name in RECIPES:
        spec = _spec(prepared, name, arguments.iterations)
        reference, *others = (
            train_in(layout, same_batches(layout, spec), folder / name / str(layout)) for layout in (REFERENCE, *OTHERS)
        )
        for layout, other in zip(OTHERS, others, strict=True):
            found = difference(other, reference)
            table.append(f"| {name} | {layout} | {found.loss:.1e} | {found.gradient_norm:.1e} | {found.weights:.1e} |")
    print("\n".join(["", *table]))
    if arguments.keep is None:
        shutil.rmtree(folder)


def _spec(prepared: Prepared, recipe: str, iterations: int) -> TrainingSpec:
    return TrainingSpec(
        stage=recipe,
        recipe=Recipe(
            **RECIPES[recipe],
            iterations=iterations,
            global_batch_size=8,
            sequence_length=512,
            learning_rate=1e-3,
            min_learning_rate=1e-4,
            warmup_fraction=0.1,
            save_interval=iterations,
            log_interval=1,
            shuffle_buffer=50,
        ),
        tensor_parallel=1,
        model_folder=prepared.model,
        dataset_folder=prepared.dataset,
        output_folder=Path("set for every layout"),
    )


if __name__ == "__main__":
    main()
