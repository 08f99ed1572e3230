"""Kills a training with SIGKILL at random moments, and compares what comes of it with one that was never stopped.

    python -m tests.benchmarks.kill_resume [--kills 10] [--seed 0] [--tensor-parallel 2]

Runs the real stages up to `combine` on 300 pictures and trains the laptop preset's small model with torchrun (two
processes, dropout on, a checkpoint every three steps), once in peace. A second run is killed again and again: every other
kill waits for a checkpoint that is being written, the others come at any time. Prints a row per kill: what was
going on, the step it had reached, the step it went on from, how many were repeated, and whether all rows of its
metrics so far (loss, gradient norm, samples' fingerprint) equal the undisturbed run's bit for bit; then whether the weights do.
"""

import argparse
import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from components.context import RunContext
from components.launch.config import LaunchConfig
from components.launch.job import TrainingJob
from components.launch.local import run_local
from components.tracking.metrics_file import METRICS_FILE, read_metrics
from components.training.checkpoint.layout import checkpoints, step_of
from components.training.spec import TrainingSpec
from components.training.summary import TRAINING_FOLDER
from pipelines.preset_files import load_preset
from tests.support.layouts import read_weights
from tests.support.small_chain import prepare

STEPS_PER_KILL = 6
LONGEST_DELAY_S = 1.5
PATIENCE_S = 300.0
COMPARED = ("step", "loss", "gradient_norm", "learning_rate", "consumed_samples", "samples_fingerprint")


def main() -> None:
    """Kill, compare and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tensor-parallel", type=int, default=2)
    options = parser.parse_args()
    config = load_preset(
        "laptop",
        [
            "data.scenes.pictures=300",
            "data.scenes.held_out_pictures=20",
            f"pretrain.recipe.iterations={(options.kills + 3) * STEPS_PER_KILL}",
            "pretrain.recipe.hidden_dropout=0.1",
            "pretrain.recipe.evaluation_interval=0",
            "pretrain.recipe.save_interval=3",
            "pretrain.recipe.log_interval=1",
        ],
    )
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare(config, RunContext(run_id="benchmark", run_name="benchmark", workspace=folder / "workspace"))
        runs = []
        for run in ("undisturbed", "killed"):
            spec = TrainingSpec(
                stage="pretrain",
                recipe=config.pretrain.recipe,
                tensor_parallel=options.tensor_parallel,
                model_folder=prepared.model,
                dataset_folder=prepared.dataset,
                output_folder=folder / run,
            )
            runs.append(_Run(folder / run, spec))
        undisturbed, killed = runs
        undisturbed.finish()
        expected = undisturbed.rows()
        print("| kill | while | reached step | goes on from | steps repeated | rows equal |\n|---|---|---|---|---|---|")
        for number in range(1, options.kills + 1):
            # Within the steps of this kill, so that every kill finds the run going.
            writing = killed.kill(number * STEPS_PER_KILL, moments, in_writing=number % 2 == 0)
            rows = killed.rows()
            reached, resumed = len(rows), step_of(checkpoints(killed.training)[-1])
            print(
                f"| {number} | {'writing a checkpoint' if writing else 'training'} | {reached} | {resumed} | "
                f"{max(0, reached - resumed)} | {_yes(rows == expected[:reached])} |",
                flush=True,
            )
        killed.finish()
        print(
            f"\nAll {len(expected)} rows equal: {_yes(killed.rows() == expected)}; "
            f"weights equal: {_yes(_equal(killed.weights(), undisturbed.weights()))}"
        )


class _Run:
    """One training, started as often as needed."""

    def __init__(self, folder: Path, spec: TrainingSpec) -> None:
        self.folder = folder
        self.training = folder / TRAINING_FOLDER
        self.spec = folder / "spec.json"
        self.launch = LaunchConfig(processes_per_node=2, tensor_parallel=spec.tensor_parallel)
        folder.mkdir()
        self.spec.write_text(spec.model_dump_json())

    def finish(self) -> None:
        """Train to the end."""
        job = TrainingJob("pretrain", "components.training.worker", [str(self.spec)], self.folder / "logs", self.launch)
        with contextlib.redirect_stdout(io.StringIO()):
            run_local(job)

    def kill(self, step: int, moments: random.Random, *, in_writing: bool) -> bool:
        """Start, wait for the step or a checkpoint that is written after it, and kill every process.

        Returns:
            Whether a checkpoint was being written.
        """
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command += ["--module", "components.training.worker", str(self.spec)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with open(self.folder / "torchrun.log", "wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + PATIENCE_S
        while len(self.rows()) < step or (in_writing and not self._writing()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "torchrun.log").read_text()[-2000:])
            time.sleep(0.001)
        if not in_writing:
            time.sleep(moments.uniform(0, LONGEST_DELAY_S))
        torchrun = psutil.Process(process.pid)
        for victim in [*torchrun.children(recursive=True), torchrun]:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)
        process.wait()
        return self._writing()

    def rows(self) -> list[tuple[object, ...]]:
        """Return what must be equal of all rows of metrics so far."""
        path = self.folder / METRICS_FILE
        return [tuple(row[key] for key in COMPARED) for row in read_metrics(path)] if path.exists() else []

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the trained weights."""
        return read_weights(self.folder)

    def _writing(self) -> bool:
        return any(self.training.glob("*.tmp/checkpoint/*.distcp"))


def _equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def _yes(condition: bool) -> str:
    return "yes" if condition else "NO"


if __name__ == "__main__":
    main()
