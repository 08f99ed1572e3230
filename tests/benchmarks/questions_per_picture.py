"""Many questions about each picture, as in GQA and POPE: what it saves to see a picture once, and to read it once.

    python -m tests.benchmarks.questions_per_picture [--shape laptop|scaled] [--pictures 8] [--questions 12] [--batch 24]

The same questions about the same pictures are answered by one model: by transformers' `generate` one at a time and in batches (its
export), with every picture encoded once, as `vlm evaluate` asks it, and by the checkpoint one at a time, in batches in which every
prompt is read whole, in batches in which the questions about a picture share what they begin with, and once more by a process that
has seen the pictures. The answers must be the same tokens every time, or nothing is printed. Each way
reads the pictures from the zip; the first of three rounds warms up.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import torch

from components.data.pictures import Pictures
from components.data.tokenizer import ChatTokenizer
from components.generate.answerer import Answerer, Asking, Place
from components.generate.answerers.checkpoint import Checkpoint
from components.generate.answerers.transformers_model import TransformersModel
from components.generate.config import CallsConfig
from components.generate.encoded_pictures import EncodedPictures
from components.generate.picture_memory import PictureMemory
from components.generate.requests import ModelInput, batches_by_length
from components.model import decoding
from components.model.distributed import single_process
from components.model.sampling_settings import Sampling
from components.tasks.loading import load_samples, load_task
from tests.benchmarks.generation import SHAPES, load_both, made

ROUNDS = 3
THINGS = ("circle", "blue square", "green star", "large yellow triangle", "thing left of the red circle", "ring")

Said = list[tuple[str, int]]
Way = Callable[[], Said]


def main() -> None:
    """Measure a shape and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="scaled")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw, model, exported = made(Path(folder), SHAPES[options.shape])
        with single_process():
            models = load_both(raw, model, exported)
            inputs = questions(raw, options.pictures, options.questions)
            seconds = measure(all_ways(models.own, models.llava, model, exported, raw, inputs, options))
    count = len(inputs)
    print(
        f"\nShape {options.shape}: {options.questions} questions about each of {options.pictures} pictures, at most "
        f"{options.new_tokens} tokens an answer, {torch.get_num_threads()} thread(s), float32. Equal answers in every way.\n"
    )
    print("| way | answers/s | against one at a time | against transformers, batched |\n|---|---|---|---|")
    alone, batched = seconds["this stage, one at a time"], seconds[f"transformers, batches of {options.batch}"]
    for name, taken in seconds.items():
        print(f"| {name} | {count / taken:.1f} | {alone / taken:.2f} | {batched / taken:.2f} |")


def questions(raw: Path, pictures: int, count: int) -> list[ModelInput]:
    """Return short questions about the first pictures, those about one picture far apart, as in POPE's files."""
    names = [sample.image for sample in load_samples(raw, load_task("captioning"))][:pictures]
    asked = [
        f"Is there a {THINGS[number % len(THINGS)]} in the image, number {number}?\nAnswer the question using a single word or phrase."
        for number in range(count)
    ]
    return [ModelInput((name,), question, "") for question in asked for name in names]


def all_ways(own, llava, model, exported, raw, inputs, options) -> dict[str, Way]:  # type: ignore[no-untyped-def]
    """Return what is compared."""
    from transformers import AutoProcessor

    tokenizer = ChatTokenizer.load(model / "tokenizer")
    processor = AutoProcessor.from_pretrained(exported, backend="pil")
    remembering = Checkpoint(own, tokenizer, Place())

    def published() -> Answerer:
        return TransformersModel(llava, processor, Place())

    def asked(answerer: Callable[[], Answerer], batch: int, whole: bool = False, anew: bool = False) -> Way:
        asking = Asking("instruct", options.new_tokens, batch, Sampling(), CallsConfig())

        def answer() -> Said:
            with contextlib.ExitStack() as stack:
                if anew:
                    stack.enter_context(mock.patch.object(EncodedPictures, "in_place", lambda _, inputs, __: inputs))
                if whole:
                    stack.enter_context(mock.patch.object(decoding, "part_prompts", return_value=None))
                return answered(answerer(), inputs, asking, raw, by_length=whole or anew)

        return answer

    def forgetful() -> Answerer:
        return Checkpoint(own, tokenizer, Place(), PictureMemory(1))

    def fresh() -> Answerer:
        return Checkpoint(own, tokenizer, Place())

    size = options.batch
    return {
        "transformers, one at a time": asked(published, 1, anew=True),
        "this stage, one at a time": asked(forgetful, 1, whole=True),
        f"transformers, batches of {size}": asked(published, size, anew=True),
        f"transformers, batches of {size}, every picture encoded once": asked(published, size),
        f"this stage, batches of {size}, every prompt read whole": asked(forgetful, size, whole=True),
        f"this stage, batches of {size}": asked(fresh, size),
        f"this stage, batches of {size}, pictures seen by an earlier task": asked(lambda: remembering, size),
    }


def answered(answerer: Answerer, inputs: Sequence[ModelInput], asking: Asking, raw: Path, by_length: bool) -> Said:
    """Return answers in the inputs' order."""
    batches = answerer.batches(inputs, asking)
    if by_length:
        batches = batches_by_length([len(shown.prompt) for shown in inputs], asking.batch_size)
    said: dict[int, tuple[str, int]] = {}
    with Pictures(raw) as pictures:
        given = [[inputs[index] for index in members] for members in batches]
        for number, answers in answerer.answer(given, asking, pictures):
            for index, answer in zip(batches[number], answers, strict=True):
                said[index] = (answer.text, answer.tokens)
    return [said[index] for index in range(len(inputs))]


def measure(ways: dict[str, Way]) -> dict[str, float]:
    """Return the median seconds of every way.

    Raises:
        SystemExit: Two ways disagree.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    expected: Said | None = None
    for number, (name, way) in _rounds(ways):
        start = time.perf_counter()
        found = way()
        if number:
            seconds[name].append(time.perf_counter() - start)
        expected = found if expected is None else expected
        if found != expected:
            raise SystemExit(f"{name} answers otherwise.")
    return {name: statistics.median(values) for name, values in seconds.items()}


def _rounds(ways: dict[str, Way]) -> Iterator[tuple[int, tuple[str, Way]]]:
    for number in range(ROUNDS):
        for item in ways.items():
            yield number, item


if __name__ == "__main__":
    main()
