"""Speed of the laptop preset's pretraining in each parallel layout.

    python -m tests.benchmarks.training_step [--iterations 60]

Runs the real stages up to `combine` on 600 pictures, then trains with torchrun at tensor parallel 1, tensor parallel 2 and
data parallel 2, one after the other, and prints the median samples per second and the share of the time spent
waiting for data. Ratios are against one process.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from components.context import RunContext
from components.launch.config import LaunchConfig
from components.tracking.metrics_file import METRICS_FILE, read_metrics
from components.training.stage import run_training
from pipelines.preset_files import load_preset
from tests.support.small_chain import prepare

LAYOUTS = {
    "1 process": LaunchConfig(),
    "tensor parallel 2": LaunchConfig(processes_per_node=2, tensor_parallel=2),
    "data parallel 2": LaunchConfig(processes_per_node=2),
}


def main() -> None:
    """Measure every layout and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=60)
    iterations = parser.parse_args().iterations
    overrides = [
        "data.scenes.pictures=600",
        "data.scenes.held_out_pictures=20",
        f"pretrain.recipe.iterations={iterations}",
    ]
    config = load_preset("laptop", [*overrides, "pretrain.recipe.evaluation_interval=0"])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        _, dataset, model = prepare(config, _context(Path(folder)))
        for name, launch in LAYOUTS.items():
            # A run of its own each, or the second layout would reuse what the first one trained.
            training = config.pretrain.model_copy(update={"launch": launch})
            output = run_training(_context(Path(folder) / name.replace(" ", "-")), "pretrain", training, model, dataset)
            metrics = read_metrics(output.folder / METRICS_FILE)[1:]  # the first row has the warm-up
            speed = statistics.median(row["samples_per_s"] for row in metrics)
            waiting = statistics.median(row["data_wait_share"] for row in metrics)
            rows.append((name, speed, waiting))
    print("\n| layout | samples/s | ratio | waiting for data |\n|---|---|---|---|")
    for name, speed, waiting in rows:
        print(f"| {name} | {speed:.0f} | {speed / rows[0][1]:.2f} | {waiting:.0%} |")


def _context(workspace: Path) -> RunContext:
    return RunContext(run_id="benchmark", run_name="benchmark", workspace=workspace)


if __name__ == "__main__":
    main()
