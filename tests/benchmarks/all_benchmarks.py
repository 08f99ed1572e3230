"""Every task of this project in small: from data in the layouts that benchmarks are published in to the table that a paper prints.

    python -m tests.benchmarks.all_benchmarks [--new-tokens 3]

The data is made up and tiny; its layouts are those of the hub's tables and of COCO's, VQAv2's and MMMU's own files. A small model
with random weights is asked every task by the stages of a run (download, generate, evaluate), with its controls. Prints the table
as Markdown and as LaTeX, and how many seconds each task took.
"""

import argparse
import tempfile
import time
from pathlib import Path
from unittest import mock

from components.download.stage import run_download_dataset
from components.evaluate.config import EvaluateConfig
from components.evaluate.paper import paper_table
from components.evaluate.scores import Scores, read_scores
from components.evaluate.stage import run_evaluate
from components.generate.config import GenerateConfig
from components.generate.stage import run_generate
from components.metrics import java
from components.tasks.loading import task_names
from tests.support.model_world import World, build_world
from tests.support.published_benchmarks import publish_tables
from tests.unit.tasks.test_chain import published

POSITIONS = 4096  # the tokenizer makes a token of nearly every letter


def main() -> None:
    """Run the chain and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new-tokens", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(java, "find_java", return_value=None):
        world = build_world(Path(folder), max_position_embeddings=POSITIONS)
        raw = download(world, Path(folder) / "published")
        scored, seconds = {}, {}
        for task in task_names():
            start = time.monotonic()
            scored[task] = evaluated(world, raw, task, options.new_tokens)
            seconds[task] = time.monotonic() - start
    table = paper_table({"small model": scored})
    print(table.markdown())
    print(table.latex())
    print(", ".join(f"{task} {taken:.1f} s" for task, taken in seconds.items()))


def download(world: World, folder: Path) -> Path:
    """Publish the data, and download it; textvqa is read from its table, with OCR's words."""
    folder.mkdir()
    config = published(folder)
    names = publish_tables(folder / "hub")
    evaluation = config.evaluation.model_copy(update={"benchmarks": names, "textvqa": None})
    return run_download_dataset(world.context, config.model_copy(update={"evaluation": evaluation})).folder


def evaluated(world: World, raw: Path, task: str, new_tokens: int) -> Scores:
    """Ask the model a task, with its controls, and score the answers."""
    config = GenerateConfig(task=task, max_new_tokens=new_tokens, controls=("none", "blank"))
    answers = run_generate(world.context, config, world.model, raw, 0).folder
    return read_scores(run_evaluate(world.context, EvaluateConfig(task=task), [answers], world.model, raw).folder)


if __name__ == "__main__":
    main()
