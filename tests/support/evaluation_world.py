"""A small world for the tests of generation, evaluation and report: pictures, captions, questions, finished stages."""

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict

from components.context import RunContext
from components.download.task_data import evaluation_data
from components.generate.config import GenerateConfig
from components.generate.requests import requests_of_partition
from components.generate.stage import generation_hash
from components.stage.part import Part
from components.stage.runner import StageWork, input_identity, run_stage
from components.storage.checksum import sha256_file
from components.tasks.loading import load_samples, load_task, task_identity
from components.tasks.sample import HeldOutSample
from tests.support.data_samples import finish_raw

COLOURS = {"red": (214, 57, 57), "green": (47, 158, 68), "blue": (51, 96, 214), "yellow": (240, 190, 40)}
SHAPES = ("circle", "square", "triangle")
SIZES = ("small", "large")

SHORT_QUESTIONS = """
name: short_questions
version: 1
kind: multiple_choice
dataset: multiple_choice.jsonl
prompt: {format: instruct, template: "{question} {options}", option: "{letter} {text}"}
max_new_tokens: 6
metrics: [accuracy]
headline: accuracy
"""
"""A task of short prompts, for tokenizers that make long ones too long."""

INTERLEAVED = SHORT_QUESTIONS.replace("format: instruct,", "format: instruct, pictures: in_place,")
"""The same, with pictures where their marks are."""


def interleave(raw: Path, folder: Path) -> list[tuple[str, ...]]:
    """Copy a raw dataset folder, and leave three of its questions: with pictures as options, with one within, with two unmarked.

    Returns:
        The pictures that each question shows, in order.
    """
    shutil.copytree(raw, folder)
    path = folder / "multiple_choice.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()][:3]
    first, second, third = (row["image"] for row in rows)
    rows[0] |= {
        "question": "which is <image 1> ?",
        "options": ["<image 3>", "red <image 2>", "<image 3>"],
        "answer": "A",
    }
    rows[0]["images"] = [first, second, third]
    rows[1] |= {"question": "is <image 1> red", "options": ["yes", "no"], "answer": "A"}
    rows[2] |= {"question": "are they", "options": ["yes", "no"], "answer": "A", "images": [third, first]}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    finish_raw(folder)
    return [(first, third, second, third), (second,), (third, first)]


Answerer = Callable[[HeldOutSample, str], str]


class AnySettings(BaseModel):
    """Settings of a fake stage."""

    model_config = ConfigDict(extra="allow")


def finished_stage(
    context: RunContext,
    stage: str,
    write: Callable[[StageWork], dict[str, Any]],
    inputs: Mapping[str, Path | str | Part] | None = None,
    **settings: Any,
) -> Path:
    """Make a finished stage folder."""
    return run_stage(
        context, stage=stage, version=1, inputs=inputs or {}, settings=AnySettings(**settings), body=write
    ).folder


def raw_dataset(
    context: RunContext,
    count: int = 24,
    seed: int = 0,
    side: int = 96,
    more: Mapping[str, Sequence[dict[str, Any]]] | None = None,
) -> Path:
    """Make a raw dataset folder with `count` held-out pictures, 3 captions and one question each, and further files of questions."""

    def write(work: StageWork) -> dict[str, Any]:
        for name, rows in (more or {}).items():
            (work.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return _write_raw(work.folder, count, seed, side)

    return finished_stage(context, "download_dataset", write, count=count, seed=seed, more=sorted(more or {}))


def describe(scene: tuple[str, str, str]) -> list[str]:
    """Return the captions of a scene."""
    size, colour, shape = scene
    return [
        f"A {size} {colour} {shape} on a white background.",
        f"There is a {size} {shape}, it is {colour}.",
        f"a {colour} {shape} that is {size}",
    ]


def scene_of(sample: HeldOutSample) -> tuple[str, str, str]:
    """Return the scene that a held-out picture shows."""
    size, colour, shape = Path(sample.image).stem.split("-")[1:]
    return size, colour, shape


def stub_model(
    context: RunContext, stage: str = "pretrain", inputs: dict[str, Path | str] | None = None, **settings: Any
) -> Path:
    """Make a folder that stands for a model in tests that don't load it."""

    def write(work: StageWork) -> dict[str, Any]:
        (work.folder / "model.json").write_text("{}")
        return {"loss": 1.0}

    return finished_stage(context, stage, write, inputs, **settings)


def predictions(
    context: RunContext,
    config: GenerateConfig,
    model: Path,
    raw: Path,
    answer: Answerer,
    partitions: Sequence[int] | None = None,
    change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda rows: rows,
) -> list[Path]:
    """Write predictions as the generation stage would, with `answer(sample, picture)` for the model.

    `change` may falsify the rows of every partition.
    """
    task = load_task(config.task)
    data = evaluation_data(raw, task)
    identity = generation_hash(config, task, input_identity(model), data.identity)
    every = load_samples(raw, task)
    samples = load_samples(raw, task, config.limit)
    by_image = {sample.image: sample for sample in samples}
    folders = []
    for partition in partitions if partitions is not None else range(config.partitions):

        def write(work: StageWork, partition: int = partition) -> dict[str, Any]:
            requests = requests_of_partition(
                samples, config.controls, partition=partition, partitions=config.partitions, seed=config.seed
            )
            rows = [
                {
                    "id": request.sample.id,
                    "control": request.control,
                    "image": request.pictures[0],
                    "prompt": request.sample.prompt,
                    "text": answer(request.sample, by_image[request.pictures[0]].image if request.pictures[0] else ""),
                    "generation": identity,
                    **({"category": request.sample.category} if request.sample.category else {}),
                }
                for request in requests
            ]
            (work.folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in change(rows)))
            return {
                "task": task_identity(task),
                "dataset": sha256_file(raw / task.dataset),
                "generation": identity,
                "controls": list(config.controls),
                "partition": partition,
                "partitions": config.partitions,
                "samples_expected": len(samples),
                "samples_dataset": len(every),
            }

        inputs: dict[str, Path | str | Part] = {
            "model": model,
            "raw": data,
            "task": task_identity(task),
            "partition": f"{partition} of {config.partitions}",
        }
        folders.append(
            finished_stage(context, f"generate/{task.name}", write, inputs, **config.model_dump(mode="json"))
        )
    return folders


def good_caption(sample: HeldOutSample, picture: str) -> str:
    """Describe the picture that is shown, wrongly for every seventh sample; say the commonest thing when it is blank."""
    if not picture:
        return "A small red circle on a white background."
    size, colour, shape = Path(picture).stem.split("-")[1:]
    if int(sample.id) % 7 == 3:
        shape = SHAPES[(SHAPES.index(shape) + 1) % 3]
    return f"A {size} {colour} {shape} on a white background."


def good_choice(sample: HeldOutSample, picture: str) -> str:
    """Read the answer from the picture, wrongly for every sixth sample; not readable for every eleventh."""
    number = int(sample.id.split("-")[-1])
    if number % 11 == 5:
        return "I don't know"
    if not picture or number % 6 == 1:
        return "A"
    wanted = set(Path(picture).stem.split("-")[1:])
    found = [letter for letter, option in zip("ABCD", sample.options, strict=False) if option in wanted]
    return f"({found[0]})" if found else "B"


def _write_raw(folder: Path, count: int, seed: int, side: int) -> dict[str, Any]:
    generator = random.Random(seed)
    images, annotations, questions = [], [], []
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number in range(count):
            scene = (generator.choice(SIZES), generator.choice(list(COLOURS)), generator.choice(SHAPES))
            name = f"heldout/{number:04d}-{'-'.join(scene)}.jpg"
            archive.writestr(name, draw(scene, generator, side))
            images.append({"id": number, "file_name": name})
            annotations += [
                {"id": len(annotations) + place, "image_id": number, "caption": text}
                for place, text in enumerate(describe(scene))
            ]
            questions.append(_question(number, name, scene, generator))
    _dump(folder / "captioning.json", {"images": images, "annotations": annotations})
    (folder / "multiple_choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    training = []
    for number in range(3 * count):
        scene = (generator.choice(SIZES), generator.choice(list(COLOURS)), generator.choice(SHAPES))
        turns = [
            {"from": "human", "value": "<image>\nDescribe it."},
            {"from": "gpt", "value": generator.choice(describe(scene))},
        ]
        training.append({"id": str(number), "image": f"train/{number}.jpg", "conversations": turns})
    _dump(folder / "pretrain.json", training)
    _dump(
        folder / "dataset.json",
        {"name": "shapes", "held_out": "combinations of size, colour and shape that training never shows"},
    )
    return {"held_out": count}


def draw(scene: tuple[str, str, str], generator: random.Random, side: int) -> bytes:
    """Draw a scene as JPEG."""
    size, colour, shape = scene
    picture = Image.new("RGB", (side, side), (250, 250, 248))
    radius = side * (0.34 if size == "large" else 0.15)
    x, y = (generator.uniform(radius + 2, side - radius - 2) for _ in range(2))
    brush = ImageDraw.Draw(picture)
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        brush.ellipse(box, fill=COLOURS[colour])
    elif shape == "square":
        brush.rectangle(box, fill=COLOURS[colour])
    else:
        brush.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=COLOURS[colour])
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()


def _question(number: int, name: str, scene: tuple[str, str, str], generator: random.Random) -> dict[str, Any]:
    kind = ("size", "colour", "shape")[number % 3]
    pool: Sequence[str] = {"size": SIZES, "colour": list(COLOURS), "shape": SHAPES}[kind]
    options = generator.sample(list(pool), len(pool))
    right = scene[("size", "colour", "shape").index(kind)]
    return {
        "id": f"q-{number}",
        "image": name,
        "question": f"What {kind} is the object in the picture?",
        "options": options,
        "answer": "ABCD"[options.index(right)],
        "category": kind,
    }


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
