"""The drawn scenes: true sentences, held-out combinations, equal bytes for equal settings."""

import io
import json
import random
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.context import RunContext
from components.data.conversation import read_conversation
from components.download.config import DatasetConfig, ScenesConfig
from components.download.dataset import conversation
from components.download.multiple_choice import ask, balanced_letters, multiple_choice_prompt
from components.download.scenes import (
    COLOURS,
    RELATIONS,
    SHAPES,
    Scene,
    answer,
    captions,
    draw,
    held_out_combinations,
    make_scene,
    multiple_choice,
)
from components.download.stage import run_download_dataset
from components.errors import ConfigurationError
from components.tasks.template import LETTERS

LETTER_INSTRUCTION = "Answer with the option's letter from the given choices directly."
SMALL = ScenesConfig(pictures=60, held_out_pictures=24, side=64)


def context(folder: Path) -> RunContext:
    return RunContext(run_id="t", run_name="t", workspace=folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_download_dataset(context(tmp_path_factory.mktemp("a")), DatasetConfig(scenes=SMALL)).folder


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def test_equal_settings_give_equal_bytes_whatever_the_processes(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.download.dataset._PICTURES_PER_PROCESS", 20)
    monkeypatch.setattr("components.download.dataset.available_cores", lambda: 2)
    again = run_download_dataset(context(tmp_path), DatasetConfig(scenes=SMALL)).folder
    assert content(again) == content(dataset)


def test_another_seed_gives_other_pictures(dataset: Path, tmp_path: Path) -> None:
    other = run_download_dataset(context(tmp_path), DatasetConfig(scenes=SMALL, seed=1)).folder
    assert content(other)["images.zip"] != content(dataset)["images.zip"]


def test_layout(dataset: Path) -> None:
    assert set(content(dataset)) == {
        "images.zip", "pretrain.json", "sft.json", "captioning.json", "multiple_choice.jsonl", "dataset.json",
        "evaluation_pictures.json",
    }  # fmt: skip
    with zipfile.ZipFile(dataset / "images.zip") as archive:
        assert archive.testzip() is None
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
        names = set(archive.namelist())
        with Image.open(io.BytesIO(archive.read("train/00000000.jpg"))) as picture:
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (64, 64), "RGB")
    assert len(names) == 84
    for file in ("pretrain.json", "sft.json"):
        entries = load(dataset / file)
        assert len({entry["id"] for entry in entries}) == len(entries) == 60
        for entry in entries:
            assert entry["image"] in names
            assert entry["image"].startswith("train/")
            assert entry["conversations"][0]["value"].startswith("<image>\n")
            assert read_conversation(entry["conversations"], pictures=1).turns
    truth = load(dataset / "captioning.json")
    assert [image["id"] for image in truth["images"]] == list(range(24))
    assert all(image["file_name"].startswith("heldout/") and image["file_name"] in names for image in truth["images"])
    assert Counter(row["image_id"] for row in truth["annotations"]) == Counter({number: 5 for number in range(24)})
    assert len({row["id"] for row in truth["annotations"]}) == 120


def test_questions_are_balanced_and_true_to_form(dataset: Path) -> None:
    rows = [json.loads(line) for line in (dataset / "multiple_choice.jsonl").read_text().splitlines()]
    assert Counter(row["answer"] for row in rows) == {"A": 6, "B": 6, "C": 6, "D": 6}
    assert Counter(row["category"] for row in rows) == {"colour": 8, "shape": 8, "place": 8}
    assert all(len(set(row["options"])) == 4 for row in rows)


def test_training_asks_in_the_evaluations_format(dataset: Path) -> None:
    turns = [turn["value"] for entry in load(dataset / "sft.json") for turn in entry["conversations"]]
    lettered = [turn for turn in turns if turn.endswith(f"\n\n{LETTER_INSTRUCTION}")]
    assert len(lettered) > 60
    assert all(all(f"\n({letter}) " in turn for letter in "ABCD") for turn in lettered)


def test_held_out_combinations_are_absent_from_training(dataset: Path) -> None:
    held_out = load(dataset / "dataset.json")["held_out_combinations"]
    training = [entry["conversations"][1]["value"] for entry in load(dataset / "pretrain.json")]
    truth = load(dataset / "captioning.json")
    evaluation = [row["caption"] for row in truth["annotations"]]
    assert all(any(shows(caption, one) for one in held_out) for caption in evaluation)
    assert not any(shows(caption, one) for caption in training for one in held_out)


def shows(caption: str, combination: str) -> bool:
    """Read from the words alone whether a caption is about a combination."""
    things = combination.split(" and ")
    two = sum(shape in caption.split() for shape in SHAPES) == 2
    return two == (len(things) == 2) and all(thing in caption for thing in things)


@given(seed=st.integers(0, 1000), share=st.floats(0.01, 0.5))
def test_held_out_share(seed: int, share: float) -> None:
    single, double = 2 * 8 * 6 * 5, 8 * 7 * 6 * 5 // 2
    assert len(held_out_combinations(seed, share)) == round(share * single) + round(share * double)


def scene_of(seed: int, two_things: bool, training: bool = True) -> Scene:
    return make_scene(random.Random(seed), two_things, held_out_combinations(0, 0.1), training)


@given(seed=st.integers(0, 2**32), two_things=st.booleans(), training=st.booleans())
def test_scenes_keep_to_their_side_of_the_split(seed: int, two_things: bool, training: bool) -> None:
    scene = scene_of(seed, two_things, training)
    assert (scene.combination in held_out_combinations(0, 0.1)) is not training
    assert len(scene.things) == 1 + two_things
    for thing in scene.things:
        assert thing.x - 0.7 * thing.radius > 0.0
        assert thing.y + 0.7 * thing.radius < 1.0


@given(seed=st.integers(0, 2**32), two_things=st.booleans())
def test_captions_are_different_and_name_everything(seed: int, two_things: bool) -> None:
    scene = scene_of(seed, two_things)
    texts = captions(scene)
    assert len(set(texts)) == 5
    assert all(thing.phrase in text for thing in scene.things for text in texts)


@given(seed=st.integers(0, 2**32))
def test_relation_agrees_with_the_drawing(seed: int) -> None:
    scene = scene_of(seed, two_things=True)
    first, second = scene.things
    offset = {
        "to the left of": second.x - first.x,
        "to the right of": first.x - second.x,
        "above": second.y - first.y,
        "below": first.y - second.y,
    }
    assert max(offset, key=lambda name: offset[name]) == scene.place
    assert RELATIONS[RELATIONS[scene.place]] == scene.place


@given(
    seed=st.integers(0, 2**32),
    two_things=st.booleans(),
    category=st.sampled_from(["colour", "shape", "place"]),
    letter=st.sampled_from("ABCD"),
)
def test_the_lettered_option_is_the_answer(seed: int, two_things: bool, category: str, letter: str) -> None:
    scene = scene_of(seed, two_things)
    about = len(scene.things) - 1
    asked = multiple_choice(scene, category, about, letter, random.Random(seed))
    assert asked.answer == letter
    assert asked.options[LETTERS.index(letter)] == answer(scene, category, about)
    assert len(set(asked.options)) == 4


@given(seed=st.integers(0, 2**32), two_things=st.booleans())
def test_conversations_are_llava_conversations(seed: int, two_things: bool) -> None:
    turns = conversation(scene_of(seed, two_things), ScenesConfig(), random.Random(seed))
    assert 3 <= len(turns) <= 6
    assert all(human and reply for human, reply in turns)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_thing_is_drawn_in_its_colour_where_it_is(seed: int) -> None:
    scene = scene_of(seed, two_things=False)
    thing = scene.things[0]
    with Image.open(io.BytesIO(draw(scene, 128))) as picture:
        centre = picture.getpixel((round(thing.x * 128), round(thing.y * 128)))
    assert all(abs(found - drawn) < 40 for found, drawn in zip(centre, thing.rgb, strict=True))
    nearest = min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], thing.rgb, strict=True)))
    assert nearest == thing.colour


def test_prompt_format() -> None:
    assert multiple_choice_prompt("Which?", ["one", "two"]) == f"Which?\n(A) one\n(B) two\n\n{LETTER_INSTRUCTION}"
    assert multiple_choice_prompt("Which?", ["one", "two"], "text") == "Which? Choose one:\none\ntwo"


def test_prompt_refuses_more_options_than_letters() -> None:
    with pytest.raises(ValueError, match="letters for only"):
        multiple_choice_prompt("Which?", [str(number) for number in range(len(LETTERS) + 1)])


def test_options_must_differ() -> None:
    with pytest.raises(ValueError, match="not all different"):
        ask("Which?", "one", ["one", "two"], "A", random.Random(0))


@given(count=st.integers(0, 100), options=st.integers(2, 6), seed=st.integers(0, 100))
def test_letters_are_balanced(count: int, options: int, seed: int) -> None:
    counts = Counter(balanced_letters(count, options, random.Random(seed)))
    spread = [counts[letter] for letter in LETTERS[:options]]
    assert sum(spread) == count
    assert max(spread) - min(spread) <= 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ftp://host/data", "expected scenes://, named://, file:///PATH"),
        ("file://relative/folder", "three slashes"),
        ("scenes://5000", "expected scenes://"),
    ],
)
def test_other_sources_are_refused(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        run_download_dataset(context(tmp_path), DatasetConfig(source=source))


def test_scenes_have_no_files_to_lock(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="data.lock"):
        run_download_dataset(context(tmp_path), DatasetConfig(lock="file:///lock.json"))
