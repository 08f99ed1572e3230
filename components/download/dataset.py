"""Source `scenes://`: draws pictures and writes captions, conversations and questions about them."""

import random
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from components.cores import available_cores
from components.download import layout
from components.download.config import ScenesConfig
from components.download.evaluation import write_evaluation
from components.download.multiple_choice import MultipleChoice, balanced_letters
from components.download.scenes import (
    Scene,
    answer,
    captions,
    draw,
    held_out_combinations,
    make_scene,
    multiple_choice,
    question,
)
from components.progress import Progress
from components.storage.atomic import write_json

CATEGORIES = ("colour", "shape", "place")
LICENCE = "generated: no rights reserved (CC0-1.0)"
OPTIONS = 4

_CAPTION_SHARE = 0.15
_OPEN_FIRST_SHARE = 0.5
_OTHER_SHARE = 0.2
_CHUNK = 64
"""Scenes that a worker draws at a time."""
_PICTURES_PER_PROCESS = 500  # drawn in 0.2 to 3 s, by their size; a process takes 0.3 s to start


@dataclass(frozen=True)
class Drawn:
    """A scene with its picture's name in `images.zip`."""

    scene: Scene
    image: str
    number: int


def write_scenes(config: ScenesConfig, seed: int, name: str, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write a raw dataset folder of drawn scenes.

    The bytes depend on the arguments alone, for one version of Pillow's JPEG encoder.

    Args:
        config: How many scenes, and of what kind.
        seed: Seed of everything.
        name: The dataset's name.
        folder: Where to write; existing files are replaced.
        progress: Told how many pictures are drawn.

    Returns:
        Facts: counts, and what is held out.
    """
    held_out = held_out_combinations(seed, config.held_out_share)
    training = list(_invent(config, seed, held_out, config.pictures, training=True))
    evaluation = list(_invent(config, seed, held_out, config.held_out_pictures, training=False))
    _write_pictures([*training, *evaluation], config.side, folder / layout.PICTURES, progress)
    questions = list(_evaluation_questions(evaluation, seed))
    truth = layout.captioning_truth({drawn.image: captions(drawn.scene) for drawn in evaluation})
    facts: dict[str, Any] = {
        "pretrain_entries": layout.write_list(folder / layout.PRETRAIN, _captioning_entries(training, seed)),
        "sft_entries": layout.write_list(folder / layout.SFT, _conversations(training, config, seed)),
        "held_out_pictures": len(evaluation),
        "held_out_captions": sum(len(captions(drawn.scene)) for drawn in evaluation),
        **write_evaluation(folder, truth, questions, {}, {}, {}),
        "held_out_combinations": len(held_out),
        "pictures": len(training) + len(evaluation),
        "picture_bytes": (folder / layout.PICTURES).stat().st_size,
        "held_out": f"{len(held_out)} combinations of things ({config.held_out_share:.0%}) that no training picture shows",
    }
    description = {
        "name": name,
        "source": "scenes://",
        "seed": seed,
        "licence": LICENCE,
        "settings": config.model_dump(),
        "counts": facts,
        "image_roots": [layout.image_root()],
        "held_out_combinations": sorted(held_out),
    }
    write_json(folder / layout.DESCRIPTION, description)
    return facts


def _invent(config: ScenesConfig, seed: int, held_out: frozenset[str], count: int, training: bool) -> Iterator[Drawn]:
    part = "train" if training else "heldout"
    for number in range(count):
        rng = random.Random(f"{seed}/{part}/{number}")
        two_things = rng.random() < config.two_things_share
        yield Drawn(make_scene(rng, two_things, held_out, training), f"{part}/{number:08d}.jpg", number)


def _write_pictures(drawn: list[Drawn], side: int, path: Path, progress: Progress) -> None:
    progress.start("drawing", len(drawn), "pictures")
    pictures = _pictures([item.scene for item in drawn], side)
    with closing(pictures), layout.open_pictures(path) as archive:
        for done, (item, picture) in enumerate(zip(drawn, pictures, strict=True), start=1):
            layout.add_picture(archive, item.image, picture)
            progress.update(done)


def _pictures(scenes: list[Scene], side: int) -> Generator[bytes]:
    workers = min(available_cores(), len(scenes) // _PICTURES_PER_PROCESS)
    if workers < 2:
        for scene in scenes:
            yield draw(scene, side)
        return
    # Fresh processes: a fork of a process with threads (a caller that uses torch, say) could hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(draw, scenes, repeat(side), chunksize=_CHUNK)


def _captioning_entries(training: list[Drawn], seed: int) -> Iterator[layout.Entry]:
    for drawn in training:
        caption = random.Random(f"{seed}/caption/{drawn.number}").choice(captions(drawn.scene))
        yield layout.entry(f"scene-{drawn.number:08d}", drawn.image, [(layout.CAPTION_PROMPT, caption)])


def _conversations(training: list[Drawn], config: ScenesConfig, seed: int) -> Iterator[layout.Entry]:
    for drawn in training:
        rng = random.Random(f"{seed}/sft/{drawn.number}")
        yield layout.entry(f"talk-{drawn.number:08d}", drawn.image, conversation(drawn.scene, config, rng))


def conversation(scene: Scene, config: ScenesConfig, rng: random.Random) -> list[tuple[str, str]]:
    """Return the turns of a fine-tuning conversation: sometimes a caption, open questions, multiple-choice questions.

    Half of the conversations ask first in the open what the first multiple-choice question asks again, so that reading
    the options can be learnt from the answer already given.
    """
    topics = [(category, about) for category in CATEGORIES for about in range(len(scene.things))]
    rng.shuffle(topics)
    turns: list[tuple[str, str]] = []
    if rng.random() < _CAPTION_SHARE:
        turns.append((layout.CAPTION_PROMPT, rng.choice(captions(scene))))
    if rng.random() < _OTHER_SHARE:
        other = rng.choice(("size", "count")), topics[0][1]
        turns.append((question(scene, *other), answer(scene, *other)))
    if rng.random() < _OPEN_FIRST_SHARE:
        turns.append((question(scene, *topics[0]), answer(scene, *topics[0])))
    for topic in topics[: config.questions]:
        asked = multiple_choice(scene, *topic, letter=rng.choice("ABCD"), rng=rng)
        turns.append(asked.turn(config.answer_form))
    return turns


def _evaluation_questions(evaluation: list[Drawn], seed: int) -> Iterator[dict[str, Any]]:
    letters = balanced_letters(len(evaluation), OPTIONS, random.Random(f"{seed}/letters"))
    for drawn, letter in zip(evaluation, letters, strict=True):
        rng = random.Random(f"{seed}/question/{drawn.number}")
        category = CATEGORIES[drawn.number % len(CATEGORIES)]
        asked = multiple_choice(drawn.scene, category, rng.randrange(len(drawn.scene.things)), letter, rng)
        yield question_row(f"question-{drawn.number:08d}", drawn.image, asked, category)


def question_row(identifier: str, image: str, asked: MultipleChoice, category: str) -> dict[str, Any]:
    """Return a line of `multiple_choice.jsonl`."""
    return {
        "id": identifier,
        "image": image,
        "question": asked.question,
        "options": list(asked.options),
        "answer": asked.answer,
        "category": category,
    }
