"""Speed of the data loader and share of useful tokens after packing.

    python -m tests.benchmarks.data_loading [--samples 2000] [--annotations FILE --tokenizer FOLDER] [--pictures 300]

Speed: photo-like JPEGs of about 500 x 400 pixels go through the real conversion and split; then a loader as the 7B preset has
it (336 pixels, instruct, sequences of 4,928) draws, decodes, resizes, encodes and packs them with 0, 1 and 2 worker
processes. CPU time is that of all processes, so that samples per CPU second do not depend on what else runs.

Beside transformers: the same JPEGs, from bytes to the tower's input, by this loader and by transformers' processors of CLIP and
SigLIP, in turns in one process and on one thread; and the whole loader without workers in its own process. `--pictures N` measures this alone.

Useful tokens: lengths of LLaVA-Pretrain's samples (576 image tokens, `<s>`, the caption, `</s>`) are dealt to data-parallel ranks
in global batches and packed. The captions' lengths are those of the annotation file that is given (LLaVA's layout), else drawn
from a log-normal distribution of mean 25 and standard deviation 12 tokens, cut at 120: a model, as the file itself can't be
shipped.
"""

import argparse
import io
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from components.data.decode import open_picture
from components.data.image import normalise, preprocess
from components.data.image_settings import ImageSettings
from components.data.loader import LoaderSettings, TrainingLoader
from components.data.packing import assign, pack
from components.data.tokenizer import ChatTokenizer
from tests.support import data_samples

IMAGE = ImageSettings(size=336, patch=14)
BESIDE = (
    (
        "CLIP, 336",
        ImageSettings(size=336, patch=14, layout="center_crop"),
        CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
    ),
    (
        "SigLIP, 384",
        ImageSettings(size=384, patch=14, layout="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        SiglipImageProcessorPil(size={"height": 384, "width": 384}),
    ),
)
"""Pictures' way into a tower here and in transformers; its faster processors need torchvision."""

SAMPLES_PER_BATCH = 32
SEQUENCE_LENGTH = 4928
GLOBAL_BATCH = 256
REFERENCE_LENGTH = 1024
RANKS = (1, 2, 8, 16)
SEQUENCE_LENGTHS = (2048, 4096, 4928, 8192)
PRESET = (2, 4928)
MEAN, DEVIATION, MOST = 25, 12, 120


def main() -> None:
    """Measure and print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000, help="pictures to make and to load per number of workers")
    parser.add_argument("--annotations", type=Path, help="LLaVA-Pretrain's JSON file")
    parser.add_argument(
        "--tokenizer", type=Path, help="tokenizer folder of a converted model, which counts the captions' tokens"
    )
    parser.add_argument("--pictures", type=int, help="compare with transformers alone, on so many pictures")
    arguments = parser.parse_args()
    if arguments.pictures:
        _print_beside_transformers(arguments.pictures)
        return
    if (arguments.annotations is None) != (arguments.tokenizer is None):
        parser.error("--annotations and --tokenizer belong together")
    _print_speed(arguments.samples)
    _print_beside_transformers(300)
    if arguments.annotations:
        tokens = _counted(arguments.annotations, ChatTokenizer.load(arguments.tokenizer))
        _print_useful(lambda rng: rng.choice(tokens), f"{len(tokens)} captions of {arguments.annotations.name}")
    else:
        _print_useful(_drawn, f"drawn, mean {MEAN}, standard deviation {DEVIATION}")


def _print_speed(samples: int) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = data_samples.make_tokenizer(folder / "tokenizer")
        entries = [data_samples.dialogue_entry(number) for number in range(samples)]
        pictures = {entry["image"]: photo(number) for number, entry in enumerate(entries)}
        size = statistics.mean(len(content) for content in pictures.values())
        dataset = data_samples.make_dataset(folder, data_samples.make_raw(folder / "raw", entries, pictures))
        pictures.clear()
        for workers in (0, 1, 2):
            rows.append((workers, *_speed(dataset, tokenizer, workers, samples)))
    print(f"\n{samples} JPEGs of {size / 1e3:.0f} KB on average, batches of {SAMPLES_PER_BATCH}\n")
    print("| workers | samples/s | samples per CPU second | of that packing |\n|---|---|---|---|")
    for workers, per_second, per_cpu_second, packing in rows:
        print(f"| {workers} | {per_second:.0f} | {per_cpu_second:.0f} | {packing:.1%} |")


def _print_beside_transformers(count: int, rounds: int = 3) -> None:
    torch.set_num_threads(1)
    contents = [photo(number) for number in range(count)]
    print(f"\n{count} JPEGs, pictures per CPU second of one thread, the middle of {rounds} rounds\n")
    print(
        "| tower's input | this loader, uint8 | and normalised | transformers | ratio | the whole loader |\n|---|---|---|---|---|---|"
    )
    for shown, settings, processor in BESIDE:
        ways: list[Callable[[bytes], Any]] = [
            lambda content, settings=settings: preprocess(open_picture(content), settings),
            lambda content, settings=settings: _normalised(content, settings),
            lambda content, processor=processor: processor(
                images=Image.open(io.BytesIO(content)).convert("RGB"), return_tensors="pt"
            ),
        ]
        ours, other = ways[1](contents[0]), ways[2](contents[0])
        torch.testing.assert_close(
            ours, other["pixel_values"], atol=1e-5, rtol=0
        )  # the same pixels, or it would be no comparison
        found = [[_per_cpu_second(way, contents) for way in ways] for _ in range(rounds)]
        raw, normalised, theirs = (statistics.median(column) for column in zip(*found, strict=True))
        whole = _whole_loader(contents, settings)
        print(
            f"| {shown} | {raw:.0f} | {normalised:.0f} | {theirs:.0f} | {normalised / theirs:.2f} | {whole:.0f} |",
            flush=True,
        )


def _per_cpu_second(way: Callable[[bytes], object], contents: Sequence[bytes]) -> float:
    start = time.process_time()
    for content in contents:
        way(content)
    return len(contents) / (time.process_time() - start)


def _normalised(content: bytes, settings: ImageSettings) -> torch.Tensor:
    pixels, valid = preprocess(open_picture(content), settings)
    return normalise(pixels[None], torch.tensor([valid]), settings)


def _whole_loader(contents: Sequence[bytes], settings: ImageSettings) -> float:
    """Return samples per CPU second of the loader: read, decoded, resized, encoded, shuffled, with two turns of text each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = data_samples.make_tokenizer(folder / "tokenizer")
        entries = [data_samples.dialogue_entry(number) for number in range(len(contents))]
        pictures = {entry["image"]: content for entry, content in zip(entries, contents, strict=True)}
        dataset = data_samples.make_dataset(folder, data_samples.make_raw(folder / "raw", entries, pictures))
        return _speed(dataset, tokenizer, 0, len(contents), settings)[1]


def _speed(
    dataset: Path, tokenizer: ChatTokenizer, workers: int, samples: int, image: ImageSettings = IMAGE
) -> tuple[float, float, float]:
    """Return samples per second, per CPU second of all processes, and packing's share of the CPU time."""
    settings = LoaderSettings(
        prompt_format="instruct", sequence_length=SEQUENCE_LENGTH, shuffle_buffer=100, workers=workers
    )
    loader = TrainingLoader(dataset, settings, tokenizer=tokenizer, image=image, samples_per_batch=SAMPLES_PER_BATCH)
    for _ in range(2 + 2 * workers):  # past the filling of the shuffle buffer and of the workers' queues
        next(loader)
    batches = max(samples // SAMPLES_PER_BATCH, 2)
    packing = 0.0
    cpu, start = _cpu_seconds(), time.perf_counter()
    for _ in range(batches):
        drawn = next(loader)
        before = time.process_time()
        pack(drawn, SEQUENCE_LENGTH)
        packing += time.process_time() - before
    elapsed, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    loader.close()
    count = batches * SAMPLES_PER_BATCH
    return count / elapsed, count / cpu, packing / cpu


def _cpu_seconds() -> float:
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def photo(number: int) -> bytes:
    """Draw a JPEG with a photo's sizes and its kind of detail: smooth areas, edges, noise."""
    rng = np.random.default_rng(number)
    width, height = (int(rng.integers(*bounds)) for bounds in ((380, 640), (320, 480)))
    coarse = Image.fromarray(rng.integers(0, 256, (height // 24 + 1, width // 24 + 1, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = smooth + rng.normal(0, 5, (height, width, 1)).astype(np.int16)
    content = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=88)
    return content.getvalue()


def _counted(annotations: Path, tokenizer: ChatTokenizer) -> list[int]:
    entries = json.loads(annotations.read_bytes())
    return [len(tokenizer.encode(entry["conversations"][1]["value"].strip())) for entry in entries]


def _drawn(rng: random.Random) -> int:
    variance = math.log(1 + (DEVIATION / MEAN) ** 2)
    tokens = rng.lognormvariate(math.log(MEAN) - variance / 2, math.sqrt(variance))
    return min(max(round(tokens), 3), MOST)


def _print_useful(caption: Callable[[random.Random], int], source: str, steps: int = 100) -> None:
    rng = random.Random(0)
    lengths = [[IMAGE.tokens + 2 + caption(rng) for _ in range(GLOBAL_BATCH)] for _ in range(steps)]
    mean = statistics.mean(length for step in lengths for length in step)
    longest = statistics.mean(max(step) for step in lengths)
    print(f"\nSamples of {mean:.1f} tokens ({source}), global batches of {GLOBAL_BATCH}\n")
    print("| not packed | useful tokens |\n|---|---|")
    print(f"| padded to {REFERENCE_LENGTH}, the reference | {mean / REFERENCE_LENGTH:.1%} |")
    print(f"| padded to the longest of the batch | {mean / longest:.1%} |")
    print(
        "\n| packed: data-parallel ranks | sequence length | sequences per rank | useful of what is computed "
        "| if padded to the step's longest | if padded to the sequence length | work of the mean rank to the largest |\n"
        "|---|---|---|---|---|---|---|"
    )
    for ranks in RANKS:
        for sequence_length in SEQUENCE_LENGTHS:
            filled = [_fill(step, ranks, sequence_length) for step in lengths]
            values = [statistics.mean(column) for column in zip(*filled, strict=True)]
            mark = " (the 7B preset)" if (ranks, sequence_length) == PRESET else ""
            shares = " | ".join(f"{value:.1%}" for value in values[1:])
            print(f"| {ranks} | {sequence_length}{mark} | {values[0]:.1f} | {shares} |")


def _fill(lengths: Sequence[int], ranks: int, sequence_length: int) -> tuple[float, float, float, float, float]:
    """Return sequences of the rank with most, and shares of useful tokens in what would be computed; see the table."""
    parts = [lengths[rank::ranks] for rank in range(ranks)]
    sizes = [[sum(part[index] for index in members) for members in assign(part, sequence_length)] for part in parts]
    total, most = sum(lengths), max(len(rank) for rank in sizes)
    computed = sum(sum(rank) for rank in sizes)  # sequences end with their last sample
    longest = max(max(rank) for rank in sizes)
    largest = max(sum(rank) for rank in sizes)
    slots = ranks * most
    return most, total / computed, total / (slots * longest), total / (slots * sequence_length), total / ranks / largest


if __name__ == "__main__":
    main()
