"""Benchmarks in their own layouts: from small tables and annotations to ground truth that tasks read."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.context import RunContext
from components.data.pictures import Pictures
from components.download.benchmarks.registry import BENCHMARKS
from components.download.config import DatasetConfig
from components.download.stage import run_download_dataset
from components.errors import InputError
from components.tasks.loading import BENCHMARKS_FOLDER, load_samples, load_task
from components.tasks.sample import HeldOutSample
from tests.support import published_benchmarks as published
from tests.support.published_benchmarks import (
    TABLES,
    parquet,
    publish_files,
    publish_tables,
    training,
    write_mmbench_tsv,
)


def download(folder: Path, **evaluation: Any) -> Path:
    config = {"source": "named://", "pretrain": training(folder / "training"), "evaluation": evaluation}
    context = RunContext(run_id="t", run_name="t", workspace=folder / "workspace")
    return run_download_dataset(context, DatasetConfig.model_validate(config)).folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    return download(folder, benchmarks=publish_tables(folder / "hub"))


def samples(raw: Path, task: str) -> list[HeldOutSample]:
    return load_samples(raw, load_task(task))


SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
PROMPTS = {
    "pope": "Is there a thing 0 in the image?" + SHORT,
    "mme": "Is it yes?" + SHORT,
    "scienceqa": "Which is it?\nA. a solid\nB. a liquid" + LETTER,
    "ai2d": "Which label?\nA. A\nB. B\nC. root\nD. leaf" + LETTER,
    "chartqa": "How many?\nAnswer the question with a single word.",
    "docvqa": "What is the date?" + SHORT,
    "infovqa": "How many?" + SHORT,
    "gqa": "Is it overcast?" + SHORT,
    "mmbench": "A hint.\nWhich is it?\nA. cat\nB. dog" + LETTER,
    "mmbench_circular": "A hint.\nWhich is it?\nA. cat\nB. dog" + LETTER,
    "seedbench": "How many towels?\nA. One\nB. Two\nC. Three\nD. Four" + LETTER,
    "realworldqa": published.REALWORLDQA[0]["question"],
    "ocrbench": "what is written in the image?",
    "mmmu_pro": "What does <image> show?\n"
    + "\n".join(f"{letter}. option {number}" for number, letter in enumerate("ABCDEFGHIJ"))
    + "\nAnswer with the option letter from the given choices directly.",
    "mmmu_pro_vision": load_task("mmmu_pro_vision").prompt.template,
    "textvqa": "What is the brand of this camera?" + SHORT,
    "textvqa_ocr": "What is the brand of this camera?\nReference OCR token: " + SHORT,
    "nocaps": "Provide a one-sentence caption for the provided image.",
    "flickr30k": "Provide a one-sentence caption for the provided image.",
}
COUNTS = {"pope": 12, "mme": 28, "ai2d": 3, "chartqa": 3, "infovqa": 1, "gqa": 3, "mmbench_circular": 5, "nocaps": 3}
COUNTS |= dict.fromkeys(set(PROMPTS) - set(COUNTS), 2) | {"mmmu_pro_vision": 1}


def test_every_benchmark_with_a_reader_has_a_task_and_the_other_way_round() -> None:
    datasets = {Path(load_task(path.stem).dataset).stem for path in BENCHMARKS_FOLDER.glob("*.yaml")}
    own = {"captioning", "multiple_choice", "mmmu", "vqav2", "mmbench_circular"}
    assert datasets - own == set(BENCHMARKS) == set(TABLES)


@pytest.mark.parametrize("task", PROMPTS)
def test_a_benchmark_is_read_from_its_own_tables(raw: Path, task: str) -> None:
    found = samples(raw, task)
    assert len(found) == COUNTS[task]
    assert found[0].prompt == PROMPTS[task]
    with Pictures(raw) as pictures:
        assert all(pictures.open(sample.image).size == (16, 16) for sample in found)


def test_truth_and_groups_are_the_published_ones(raw: Path) -> None:
    assert [sample.references for sample in samples(raw, "pope")[:3]] == [("no",), ("yes",), ("no",)]
    assert {sample.category for sample in samples(raw, "pope")} == {"adversarial", "popular", "random"}
    mme = samples(raw, "mme")
    assert [(sample.unit, sample.references) for sample in mme[:2]] == [
        ("existence/0000.png", ("yes",)),
        ("existence/0000.png", ("no",)),
    ]
    science = samples(raw, "scienceqa")
    assert [(sample.answer, sample.options[-1]) for sample in science] == [("A", "a liquid"), ("B", "a gas")]
    assert science[1].prompt.startswith("Context: It flows.\nWhich is it?\nA. a solid")
    assert dict(science[1].groups) == {"subject": "natural science", "grade": "7 to 12"}
    assert [sample.answer for sample in samples(raw, "ai2d")] == ["A", "B", "C"]
    assert [sample.category for sample in samples(raw, "chartqa")] == ["human", "augmented", "human"]
    assert [sample.category for sample in samples(raw, "docvqa")] == ["layout", "handwritten"]
    assert samples(raw, "gqa")[2].image == samples(raw, "gqa")[0].image
    assert [sample.id for sample in samples(raw, "seedbench")] == ["100", "102"]
    assert samples(raw, "seedbench")[0].category == "instances counting"
    closed, opened = samples(raw, "realworldqa")
    assert (closed.options, closed.answer, opened.references) == (("Left", "Right", "Up"), "B", ("3",))
    assert [sample.answer for sample in samples(raw, "mmmu_pro")] == ["C", "J"]
    assert [len(sample.images) for sample in samples(raw, "mmmu_pro")] == [0, 2]
    assert [sample.hint for sample in samples(raw, "textvqa_ocr")] == ["", "NOKIA, 8"]
    assert (
        samples(raw, "textvqa_ocr")[1].prompt
        == "What is the brand of this camera?\nReference OCR token: NOKIA, 8" + SHORT
    )
    assert samples(raw, "nocaps")[2].references == ("a thing 2", "one thing 2")
    assert [sample.id for sample in samples(raw, "flickr30k")] == ["0", "2"]  # Karpathy's test split alone


def test_circular_questions_are_all_rotations_and_each_has_the_same_truth(raw: Path) -> None:
    whole = {sample.id: sample for sample in samples(raw, "mmbench")}
    turned = samples(raw, "mmbench_circular")
    for unit, sample in whole.items():
        group = [other for other in turned if other.unit == unit]
        assert len(group) == len(sample.options) == len({other.options for other in group})
        assert {other.options["ABCD".index(other.answer)] for other in group} == {"dog"}
        assert {other.options[0] for other in group} == set(sample.options)


def test_a_picture_is_stored_once_and_unchanged(raw: Path) -> None:
    with zipfile.ZipFile(raw / "pictures" / "pope.zip") as archive:
        assert sorted(map(archive.read, archive.namelist())) == sorted(published.picture(number) for number in range(2))


def test_test_pictures_are_known_by_name(raw: Path) -> None:
    held_out = json.loads((raw / "evaluation_pictures.json").read_text())
    assert len(held_out["pope.jsonl"]) == 2
    assert len(held_out["flickr30k.json"]) == 2


def test_a_raw_dataset_folder_is_a_source_again(raw: Path, tmp_path: Path) -> None:
    context = RunContext(run_id="t", run_name="t", workspace=tmp_path)
    again = run_download_dataset(context, DatasetConfig(source=raw.as_uri())).folder
    for task in PROMPTS:
        assert samples(again, task) == samples(raw, task)


def test_authors_own_annotations_give_the_same(raw: Path, tmp_path: Path) -> None:
    folder = download(tmp_path, benchmark_files=publish_files(tmp_path / "authors"))
    for task in ("mme", "chartqa", "scienceqa", "seedbench", "ocrbench"):
        own, tables = samples(folder, task), samples(raw, task)
        assert sorted((one.prompt, one.references, one.answer, one.category, one.unit) for one in own) == sorted(
            (one.prompt, one.references, one.answer, one.category, one.unit) for one in tables
        )
    assert [one.id for one in samples(folder, "scienceqa")] == ["4", "5"]
    assert [one.id for one in samples(folder, "chartqa")] == ["augmented-0", "human-0", "human-1"]
    assert "mme/artwork/images/0008.png" in {one.image for one in samples(folder, "mme")}
    for task in ("pope", "gqa"):
        own, tables = samples(folder, task), samples(raw, task)
        assert [(one.id, one.prompt, one.references, one.category) for one in own] == [
            (one.id, one.prompt, one.references, one.category) for one in tables
        ]
    assert samples(folder, "pope")[0].image == "coco/val2014/COCO_val2014_1.jpg"
    assert [(one.category, one.references) for one in samples(folder, "nocaps")] == [
        (f"{name}-domain", (f"a thing {row}", f"a thing {row + 3}")) for row, name in enumerate(("in", "near", "out"))
    ]


def test_mmbench_is_read_from_its_authors_table_of_text(raw: Path, tmp_path: Path) -> None:
    write_mmbench_tsv(tmp_path / "MMBench" / "mmbench_dev_20230712.tsv")
    folder = download(tmp_path, benchmarks={"mmbench": (tmp_path / "MMBench").as_uri()})
    for task in ("mmbench", "mmbench_circular"):
        assert samples(folder, task) == samples(raw, task)


def test_textvqa_takes_ocr_words_of_another_file(tmp_path: Path) -> None:
    items = [{"question_id": 1, "image_id": "t0", "question": "what is it?", "answers": ["x"] * 10}]
    words = [{"image_id": "t0", "ocr_tokens": ["EXIT", "a,b"]}]
    for name, content in (("TextVQA", items), ("Rosetta", words)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": content}))
    with zipfile.ZipFile(tmp_path / "train_val.zip", "w") as archive:
        archive.writestr("train_images/t0.jpg", published.picture(1))
    folder = download(
        tmp_path,
        textvqa={
            "annotations": (tmp_path / "TextVQA.json").as_uri(),
            "words": (tmp_path / "Rosetta.json").as_uri(),
            "images": [{"uri": (tmp_path / "train_val.zip").as_uri(), "prefix": "textvqa/train_images/"}],
        },
    )
    assert samples(folder, "textvqa_ocr")[0].prompt == "What is it?\nReference OCR token: EXIT, a,b" + SHORT


def without(column: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda row: {name: value for name, value in row.items() if name != column}


def changed(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda row: row | values


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        (
            "pope",
            without("question"),
            "row 0 has another layout (KeyError('question')): expected image, question_id, question",
        ),
        ("pope", changed(answer="maybe"), 'expected ["yes"] or ["no"]'),
        ("mme", changed(category="smell"), "which is no subtask of MME"),
        ("scienceqa", changed(answer=7), "answer 'H' is not one of the letters"),
        ("scienceqa", changed(choices=["one"], answer=0), "it needs two options or more"),
        ("ai2d", changed(image={"bytes": b"\xff\xd8\xffx", "path": "x"}), "row 0: its picture can't be opened"),
        ("ai2d", changed(image=None), "row 0 has no picture"),
        ("chartqa", changed(answer=" "), "has no `answers`"),
        ("mmbench", changed(answer="D"), "answer 'D' is not one of the letters"),
        ("realworldqa", changed(answer=""), "must have two `options` or more"),
        ("flickr30k", changed(split="train"), "no row of it belongs to flickr30k"),
        ("nocaps", changed(annotations_captions=[""]), "a picture without captions, or with an empty one"),
        ("docvqa", changed(questionId="1"), "several rows of docvqa have the id 1"),
    ],
)
def test_what_is_wrong_with_a_table_is_found_when_it_is_downloaded(
    tmp_path: Path, name: str, change: Callable[[dict[str, Any]], dict[str, Any]], complaint: str
) -> None:
    for file, rows in TABLES[name].items():
        parquet(tmp_path / "hub" / file, [change(row) for row in rows])
    with pytest.raises(InputError) as caught:
        download(tmp_path, benchmarks={name: (tmp_path / "hub").as_uri()})
    assert complaint in str(caught.value)
    assert "parquet" in str(caught.value)


def test_a_dataset_without_the_benchmarks_tables_is_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", published.POPE)
    with pytest.raises(
        InputError, match=r"has no table of pope: expected files whose names match .*test-.*image, question_id"
    ):
        download(tmp_path, benchmarks={"pope": (tmp_path / "hub").as_uri()})


def test_an_authors_file_in_another_layout_is_explained(tmp_path: Path) -> None:
    files = publish_files(tmp_path / "authors")
    (tmp_path / "authors" / "testdev_balanced_questions.json").write_text("[]")
    with pytest.raises(
        InputError, match=r"testdev_balanced_questions.json is not in the layout that gqa is published in"
    ):
        download(tmp_path, benchmark_files={"gqa": files["gqa"]})


def test_oddities_of_the_published_rows_are_mended() -> None:
    nested = {**published.MMMU_PRO[0], "options": "[['A', 'B', 'Not enough information']]", "answer": "B"}
    row = BENCHMARKS["mmmu_pro"].row(nested, 0)
    assert row is not None
    assert row["options"] == ["A", "B", "Not enough information"]
    spaced = {**published.MME[0], "question": "Is there a red bus in the image?  Please answer yes or no."}
    row = BENCHMARKS["mme"].row(spaced, 0)
    assert row is not None
    assert row["question"] == "Is there a red bus in the image?"


def test_a_folder_without_the_authors_files_is_refused(tmp_path: Path) -> None:
    files = publish_files(tmp_path / "authors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "test.json").write_text("[]")
    with pytest.raises(
        InputError, match=r"has no annotations of chartqa: expected files whose names match test_\(human"
    ):
        download(
            tmp_path, benchmark_files={"chartqa": {**files["chartqa"], "annotations": (tmp_path / "empty").as_uri()}}
        )


@pytest.mark.parametrize(
    ("evaluation", "complaint"),
    [
        ({"benchmarks": {"popes": "hf://datasets/lmms-lab/POPE"}}, "benchmarks: 'popes' is not one of pope, mme"),
        (
            {"benchmark_files": {"ai2d": {"annotations": "file:///x"}}},
            "benchmark_files: 'ai2d' is not one of pope, mme, scienceqa, chartqa, gqa, seedbench",
        ),
        (
            {"benchmarks": {"gqa": "file:///x"}, "benchmark_files": {"gqa": {"annotations": "file:///x"}}},
            "benchmarks: gqa is named twice",
        ),
        ({"benchmarks": {"textvqa": "file:///x"}, "textvqa": {"annotations": "file:///x"}}, "textvqa is named twice"),
        ({"more": {"pope": {"annotations": "file:///x"}}}, "pope.jsonl is another file of the dataset"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(evaluation: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DatasetConfig.model_validate({"evaluation": evaluation})
    assert complaint in str(caught.value)
