"""Speed of generation: batched with a cache, against one sample at a time and against transformers, on the same weights.

    python -m tests.benchmarks.generation [--shape laptop scaled] [--samples 64] [--batch 32] [--new-tokens 32]

Runs the real stages up to `combine` with random weights, exports the model, and loads the export with transformers'
`LlavaForConditionalGeneration`. Prompts are captions and questions of different lengths; the end token is one that the
answers meet at different times. Every way must give the same tokens for every sample, else the program fails. What is
timed is the model's work alone: pictures are read and prompts encoded before. The ways take turns, and the median counts.

Shapes: `laptop` is the preset's; `scaled` has the proportions of Mistral-7B with CLIP ViT-L/14@336: 576 tokens a picture, four
query heads a group, MLPs 3.5 times as wide as the model, a tower a quarter as wide.
"""

import argparse
import contextlib
import itertools
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from components.context import RunContext
from components.data.image import normalise
from components.data.packing import EncodedSample
from components.data.pictures import Pictures
from components.data.prompt import encode_prompt
from components.data.tokenizer import ChatTokenizer
from components.export.config import ExportConfig
from components.export.stage import run_export
from components.generate.requests import batches_by_length
from components.model.checkpoint.sharded import load_model
from components.model.config import read_model_config
from components.model.decoding import generate
from components.model.distributed import single_process
from components.model.vlm import VisionLanguageModel, build_model
from components.tasks.loading import load_samples, load_task
from pipelines.preset_files import load_preset
from tests.support.model_config import SCALED_DOWN_LANGUAGE
from tests.support.small_chain import prepare

# Stock Llava's projector is as wide as the language model.
SHAPES = {
    "laptop": ["combine.projector.ffn_hidden_size=128"],
    "scaled": [
        "combine.projector.ffn_hidden_size=512",
        *SCALED_DOWN_LANGUAGE,
        "weights.language.initializer_range=0.04",
        "weights.vision.image_size=336",
        "weights.vision.patch_size=14",
        "weights.vision.num_hidden_layers=6",
    ],
}
DATA = ["data.scenes.pictures=300", "data.scenes.held_out_pictures=100"]
ROUNDS = 3

Answers = list[list[int]]
Way = Callable[[Sequence[EncodedSample]], Answers]


@dataclass(frozen=True)
class Models:
    """The same weights twice."""

    own: VisionLanguageModel
    llava: LlavaForConditionalGeneration
    tokenizer: ChatTokenizer
    raw: Path


def main() -> None:
    """Measure every shape and print a Markdown table each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=32)
    options = parser.parse_args()
    for shape in options.shape:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            raw, model, exported = made(Path(folder), SHAPES[shape])
            stack.enter_context(single_process())
            models = load_both(raw, model, exported)
            prompts = encoded_prompts(models, options.samples)
            end_token = chosen_end(generate(models.own, prompts, end_tokens=[-1], max_new_tokens=options.new_tokens))
            ways = all_ways(models, options.batch, options.new_tokens, end_token)
            times, tokens = measure(ways, prompts)
        lengths = [prompt.length for prompt in prompts]
        print(
            f"\nShape {shape}: {options.samples} prompts of {min(lengths)} to {max(lengths)} tokens, answers of "
            f"{tokens / options.samples:.1f} tokens on average (at most {options.new_tokens}), "
            f"{torch.get_num_threads()} thread(s), float32. Equal tokens for every sample in every way.\n"
        )
        print("| way | answers/s | against one at a time | against transformers, batched |\n|---|---|---|---|")
        alone, batched = times["this stage, one at a time"], times[f"transformers, batches of {options.batch}"]
        for name, seconds in times.items():
            print(f"| {name} | {options.samples / seconds:.1f} | {alone / seconds:.2f} | {batched / seconds:.2f} |")


def made(folder: Path, overrides: Sequence[str]) -> tuple[Path, Path, Path]:
    """Return a raw dataset, a model that the real stages made, and its export."""
    config = load_preset("laptop", [*DATA, *overrides])
    context = RunContext(run_id="benchmark", run_name="benchmark", workspace=folder)
    raw, _, model = prepare(config, context)
    return raw, model, run_export(context, ExportConfig(verify=False), model).folder


def load_both(raw: Path, model: Path, exported: Path) -> Models:
    """Load the same weights both ways."""
    own = build_model(read_model_config(model), layers="local")
    load_model(own, model / "checkpoint")
    llava = LlavaForConditionalGeneration.from_pretrained(exported, attn_implementation="sdpa")
    return Models(own.eval(), llava.eval(), ChatTokenizer.load(model / "tokenizer"), raw)


def encoded_prompts(models: Models, count: int) -> list[EncodedSample]:
    """Ask half of the pictures for a caption and half a question."""
    captions = load_samples(models.raw, load_task("captioning_instruct"))
    questions = load_samples(models.raw, load_task("multiple_choice_text"))
    with Pictures(models.raw) as pictures:
        return [
            encode_prompt(
                sample.prompt,
                [pictures.open(sample.image)],
                tokenizer=models.tokenizer,
                settings=models.own.architecture.image,
                prompt_format="instruct",
                key=sample.id,
            )
            for sample in [*captions[: count // 2], *questions[: count - count // 2]]
        ]


def chosen_end(answers: Answers) -> int:
    """Return the token after which answers differ most in length, so that they end at different times."""

    def spread(token: int) -> int:
        return len({len(list(itertools.takewhile(lambda found: found != token, answer))) for answer in answers})

    return max(Counter(token for answer in answers for token in answer), key=spread)


def all_ways(models: Models, batch: int, new_tokens: int, end_token: int) -> dict[str, Way]:
    """Return what is compared."""

    def by_us(prompts: Sequence[EncodedSample]) -> Answers:
        return generate(models.own, prompts, end_tokens=[end_token], max_new_tokens=new_tokens)

    def by_transformers(prompts: Sequence[EncodedSample]) -> Answers:
        longest = max(prompt.length for prompt in prompts)
        padding = [longest - prompt.length for prompt in prompts]
        filled = [
            torch.cat([torch.full((room,), end_token), prompt.tokens])
            for room, prompt in zip(padding, prompts, strict=True)
        ]
        pixels = torch.cat([prompt.pixels for prompt in prompts])
        valid = torch.cat([prompt.valid for prompt in prompts])
        with torch.no_grad():
            found = models.llava.generate(
                input_ids=torch.stack(filled),
                attention_mask=torch.stack([(torch.arange(longest) >= room).long() for room in padding]),
                pixel_values=normalise(pixels, valid, models.own.architecture.image),
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=end_token,
                pad_token_id=end_token,
            )
        return [list(itertools.takewhile(lambda token: token != end_token, row)) for row in found[:, longest:].tolist()]

    return {
        "transformers, one at a time": in_batches(by_transformers, 1),
        "this stage, one at a time": in_batches(by_us, 1),
        f"transformers, batches of {batch}": in_batches(by_transformers, batch),
        f"this stage, batches of {batch}": in_batches(by_us, batch),
    }


def in_batches(way: Way, size: int) -> Way:
    """Answer in batches of about equally long prompts; the answers are in the prompts' order."""

    def answer(prompts: Sequence[EncodedSample]) -> Answers:
        answers: Answers = [[] for _ in prompts]
        for members in batches_by_length([prompt.length for prompt in prompts], size):
            for index, found in zip(members, way([prompts[index] for index in members]), strict=True):
                answers[index] = found
        return answers

    return answer


def measure(ways: dict[str, Way], prompts: Sequence[EncodedSample]) -> tuple[dict[str, float], int]:
    """Return the median seconds of every way, and the tokens of all answers.

    Raises:
        SystemExit: Two ways disagree.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    expected: Answers | None = None
    for way in ways.values():
        way(prompts[:2])
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            answers = way(prompts)
            seconds[name].append(time.perf_counter() - start)
            expected = answers if expected is None else expected
            different = [row for row, pair in enumerate(zip(answers, expected, strict=True)) if pair[0] != pair[1]]
            if different:
                raise SystemExit(f"{name} answers {len(different)} samples differently, {different[0]} is the first.")
    assert expected is not None
    return {name: statistics.median(values) for name, values in seconds.items()}, sum(map(len, expected))


if __name__ == "__main__":
    main()
