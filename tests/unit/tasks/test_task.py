from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.context import RunContext
from components.data.pictures import Pictures
from components.download.multiple_choice import multiple_choice_prompt
from components.errors import ConfigurationError, InputError
from components.generate.config import GenerateConfig
from components.generate.controls import other_pictures
from components.generate.requests import requests_of_partition
from components.tasks.loading import BENCHMARKS_FOLDER, load_samples, load_task
from components.tasks.registry import find_kind
from components.tasks.sample import HeldOutSample
from tests.support.evaluation_world import raw_dataset


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(run_id="t", run_name="t", workspace=tmp_path)


@pytest.mark.parametrize("path", sorted(BENCHMARKS_FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_task_of_the_package_loads_under_its_file_name(path: Path) -> None:
    assert load_task(path.stem).name == path.stem


def test_multiple_choice_asks_as_the_training_data_does() -> None:
    task = load_task("multiple_choice")
    sample = HeldOutSample("1", "a.jpg", question="What is left?", options=("a {red} circle", "nothing"))
    asked = find_kind(task.kind).ask(task, sample)
    assert asked == multiple_choice_prompt("What is left?", ["a {red} circle", "nothing"])
    assert asked == (
        "What is left?\n(A) a {red} circle\n(B) nothing\n\nAnswer with the option's letter from the given choices directly."
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "riddle"}, "no kind 'riddle'"),
        ({"metrics": ["accuracy", "cider"]}, "cider is not one of accuracy"),
        ({"headline": "cider"}, "not among the metrics"),
        ({"prompt": {"format": "plain"}}, "can ask nothing"),
        (
            {"prompt": {"format": "instruct", "template": "{question} {answer} {options}"}},
            "must use {question}, {options}",
        ),
        ({"colour": "red"}, "colour"),
        ({"dataset": "../secret.jsonl"}, "below the raw dataset folder"),
    ],
)
def test_a_wrong_task_file_is_explained(tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    content = yaml.safe_load((BENCHMARKS_FOLDER / "multiple_choice.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**content, **change}))
    with pytest.raises(ConfigurationError, match="mine.yaml") as caught:
        load_task(str(path))
    assert complaint in str(caught.value)


def test_an_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(
        ConfigurationError, match="Known are ai2d, captioning, captioning_instruct, .*, textvqa_ocr, vqav2, or the path"
    ):
        load_task("vqa_of_mine")


@pytest.mark.parametrize(
    ("text", "cleaned"), [("  a dog \n a cat", "a dog"), ("\n\na dog\n", "a dog"), ("", ""), ("a  dog. ", "a  dog.")]
)
def test_captions_are_stripped_and_cut_to_their_first_line(text: str, cleaned: str) -> None:
    assert load_task("captioning").clean(text) == cleaned


def test_samples_keep_all_references_and_fill_in_prompts(context: RunContext) -> None:
    raw = raw_dataset(context, 12)
    captions, questions = (load_samples(raw, load_task(name)) for name in ("captioning", "multiple_choice"))
    assert [sample.id for sample in captions] == [str(number) for number in range(12)]
    assert all(len(sample.references) == 3 and sample.prompt == "" for sample in captions)
    assert all(sample.question in sample.prompt and sample.answer in "ABCD" for sample in questions)
    assert load_samples(raw, load_task("captioning"), 5) == captions[:5]
    with Pictures(raw) as pictures:
        assert pictures.open(captions[0].image).mode == "RGB"
        with pytest.raises(InputError, match=r"absent\.jpg"):
            pictures.open("absent.jpg")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("captioning.json", "[]", "not a COCO caption file"),
        (
            "captioning.json",
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}',
            "1 pictures have no caption",
        ),
        ("captioning.json", '{"images": [], "annotations": [{"image_id": 3, "caption": "x"}]}', "belongs to image 3"),
        ("captioning.json", '{"images": [], "annotations": []}', "holds no samples"),
        ("multiple_choice.jsonl", '{"id": "1"}', "line 1 is not a multiple-choice question"),
        (
            "multiple_choice.jsonl",
            '{"id": "1", "image": "a", "question": "q", "options": ["x", "y"], "answer": "C"}',
            "answer 'C' is not one of the letters AB",
        ),
        (
            "multiple_choice.jsonl",
            '{"id": "1", "image": "a", "question": "q", "options": ["x", "y"], "answer": "A"}\n' * 2,
            "several samples with the same id: 1",
        ),
    ],
)
def test_broken_ground_truth_is_explained(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        load_samples(tmp_path, load_task(Path(name).stem))
    assert complaint in str(caught.value)
    assert name in str(caught.value)


def test_a_picture_folder_is_read_and_not_left(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"x")
    with Pictures(tmp_path) as pictures, pytest.raises(InputError, match="lies outside"):
        pictures.open("../secret.jpg")


@given(st.lists(st.integers(0, 8), max_size=60), st.integers(0, 5))
def test_shuffled_pictures_are_a_permutation_without_any_own_picture(numbers: list[int], seed: int) -> None:
    images = [f"{number}.jpg" for number in numbers]
    most = max((images.count(image) for image in images), default=0)
    if 2 * most > len(images):
        with pytest.raises(InputError, match="shuffled"):
            other_pictures(images, seed)
        return
    shown = other_pictures(images, seed)
    assert sorted(shown) == sorted(images)
    assert all(own != other for own, other in zip(images, shown, strict=True))
    assert shown == other_pictures(images, seed)


def test_another_seed_shuffles_otherwise() -> None:
    images = [f"{number}.jpg" for number in range(30)]
    assert other_pictures(images, 0) != other_pictures(images, 1)


@given(st.integers(2, 40), st.integers(1, 9))
def test_partitions_cover_every_sample_and_control_once_and_agree_on_the_shuffle(count: int, partitions: int) -> None:
    samples = [HeldOutSample(str(number), f"{number}.jpg", "") for number in range(count)]
    controls = GenerateConfig(task="captioning").controls
    whole = requests_of_partition(samples, controls, partition=0, partitions=1, seed=3)
    parts = [
        request
        for partition in range(partitions)
        for request in requests_of_partition(samples, controls, partition=partition, partitions=partitions, seed=3)
    ]
    assert len(parts) == count * 3
    assert set(parts) == set(whole)


def test_all_pictures_of_a_question_are_shown_where_a_task_says_so() -> None:
    pictures = [("a.jpg", "b.jpg"), ("c.jpg",), ("d.jpg", "e.jpg", "f.jpg")]
    samples = [HeldOutSample(str(n), names[0], images=names, shown=names) for n, names in enumerate(pictures)]
    controls = GenerateConfig(task="captioning").controls
    found = requests_of_partition(samples, controls, partition=0, partitions=1, seed=0)
    shown = {(request.control, request.sample.id): request.pictures for request in found}
    for number, names in enumerate(pictures):
        assert shown["none", str(number)] == names
        assert shown["blank", str(number)] == ("",) * len(names)
        others = shown["shuffled", str(number)]
        assert len(others) == len(names)
        assert not set(others) & set(names)
    first = requests_of_partition(
        [replace(one, shown=()) for one in samples], controls, partition=0, partitions=1, seed=0
    )
    assert {request.pictures for request in first if request.control == "none"} == {("a.jpg",), ("c.jpg",), ("d.jpg",)}


@pytest.mark.parametrize("controls", [("blank",), ("none", "none"), ("none", "dark")])
def test_controls_need_the_real_picture_and_known_names(controls: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="controls"):
        GenerateConfig(task="captioning", controls=controls)  # type: ignore[arg-type]
