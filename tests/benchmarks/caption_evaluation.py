"""What evaluating 5,000 pictures with captions costs, against generating the captions alone.

    python -m tests.benchmarks.caption_evaluation [--pictures 5000] [--batch 32] [--new-tokens 12] [--sample 500] [--alone 100]

The laptop preset's model with random weights captions drawn pictures: by the stages of a run (generate, then evaluate: CIDEr, BLEU,
ROUGE-L, METEOR, controls, intervals, pages), by the model alone over the same batches, and on a sample by the model one picture at a
time and by transformers' `generate` in batches. Processor time of this process and its children is what is compared: the machine may
be shared. Each is given for 1,000 pictures.
"""

import argparse
import cProfile
import os
import pstats
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import torch

from components.context import RunContext
from components.data.pictures import Pictures
from components.data.tokenizer import ChatTokenizer
from components.evaluate.config import EvaluateConfig
from components.evaluate.stage import run_evaluate
from components.generate.answerer import Answerer, Asking, Place
from components.generate.answerers.checkpoint import Checkpoint
from components.generate.answerers.transformers_model import TransformersModel
from components.generate.config import CallsConfig, GenerateConfig
from components.generate.requests import ModelInput
from components.generate.stage import run_generate
from components.metrics import java
from components.model.distributed import single_process
from components.model.sampling_settings import Sampling
from components.tasks.loading import load_samples, load_task
from tests.benchmarks.generation import SHAPES, load_both, made

TASK = "captioning"


def processor_seconds() -> float:
    """Return the processor time of this process and of its children that ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def measured(name: str, count: int, work: Callable[[], object]) -> tuple[str, int, float, float]:
    """Return name, number of pictures, and seconds of processor and of the clock."""
    start, clock = processor_seconds(), time.monotonic()
    work()
    found = name, count, processor_seconds() - start, time.monotonic() - clock
    print(f"{name}: {count} pictures, {found[2]:.1f} s of processor time, {found[3]:.1f} s", flush=True)
    return found


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("pictures", 5000), ("batch", 32), ("new-tokens", 12), ("sample", 500), ("alone", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--profile", action="store_true", help="say where the evaluation's time goes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        raw, model, exported = made(folder, [*SHAPES["laptop"], f"data.scenes.held_out_pictures={given.pictures}"])
        with single_process():
            rows = by_models(raw, model, exported, given)
        context = RunContext(run_id="benchmark", run_name="benchmark", workspace=folder)
        config = GenerateConfig(task=TASK, controls=("none",), batch_size=given.batch, max_new_tokens=given.new_tokens)
        answers: list[Path] = []
        rows.append(
            measured(
                "generation, by the stage",
                given.pictures,
                lambda: answers.append(run_generate(context, config, model, raw, 0).folder),
            )
        )
        for name, patched in (("scoring, without Java (no METEOR)", True), ("scoring, with METEOR", False)):
            if not patched and java.find_java() is None:
                continue
            profiler = cProfile.Profile() if given.profile else None
            settings = EvaluateConfig(task=TASK, bootstrap_samples=1000 if patched else 999)
            find = mock.patch.object(java, "find_java", return_value=None if patched else java.find_java())
            with find:
                work = lambda: run_evaluate(context, settings, answers, model, raw)  # noqa: E731, B023
                rows.append(measured(name, given.pictures, lambda: profiler.runcall(work) if profiler else work()))  # noqa: B023
            if profiler:
                pstats.Stats(profiler).sort_stats("cumulative").print_stats(45)
    base = next(spent / count for name, count, spent, _ in rows if name == "generation, the model alone")
    print("\n| part | pictures | processor s for 1,000 pictures | against the model alone |\n|---|---|---|---|")
    for name, count, spent, _ in rows:
        print(f"| {name} | {count:,} | {1000 * spent / count:.2f} | {spent / count / base:.2f} |")


def by_models(raw: Path, model: Path, exported: Path, given: argparse.Namespace) -> list[tuple[str, int, float, float]]:
    """Measure models without stages."""
    from transformers import AutoProcessor

    models = load_both(raw, model, exported)
    processor = AutoProcessor.from_pretrained(exported, backend="pil")
    shown = [ModelInput((sample.image,), "", "") for sample in load_samples(raw, load_task(TASK))]
    own: Callable[[], Answerer] = lambda: Checkpoint(models.own, ChatTokenizer.load(model / "tokenizer"), Place())  # noqa: E731
    stock: Callable[[], Answerer] = lambda: TransformersModel(models.llava, processor, Place())  # noqa: E731

    def caption(answerer: Answerer, inputs: Sequence[ModelInput], batch: int) -> None:
        asking = Asking("plain", given.new_tokens, batch, Sampling(), CallsConfig())
        with Pictures(raw) as pictures:
            batches = [[inputs[index] for index in members] for members in answerer.batches(inputs, asking)]
            assert sum(len(found) for _, found in answerer.answer(batches, asking, pictures)) == len(inputs)

    caption(own(), shown[: given.batch], given.batch)  # warms up
    print(f"{torch.get_num_threads()} thread(s)")
    return [
        measured(
            "one picture at a time, the model alone", given.alone, lambda: caption(own(), shown[: given.alone], 1)
        ),
        measured("transformers, batched", given.sample, lambda: caption(stock(), shown[: given.sample], given.batch)),
        measured("generation, the model alone", len(shown), lambda: caption(own(), shown, given.batch)),
    ]


if __name__ == "__main__":
    main()
