"""Evaluation data that comes with a dataset: what the evaluation would stumble over is found by the download."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from components.errors import InputError
from tests.unit.download.test_folder import download, entry, lines, load, make_folder, picture

COUNT = 8


def question(number: int, **changes: Any) -> dict[str, Any]:
    options = ["red", "blue", "green", "grey"]
    image = entry(number)["image"]
    return {"id": f"q{number}", "image": image, "question": "what?", "options": options, "answer": "A"} | changes


def truth(**changes: Any) -> dict[str, Any]:
    images = [{"id": number, "file_name": entry(number)["image"]} for number in range(COUNT)]
    annotations = [{"id": number, "image_id": number, "caption": f"caption {number}"} for number in range(COUNT)]
    return {"images": images, "annotations": annotations} | changes


def captions(changed: int, caption: Any) -> list[dict[str, Any]]:
    return [{"id": n, "image_id": n, "caption": caption if n == changed else f"caption {n}"} for n in range(COUNT)]


def with_evaluation(folder: Path, questions: list[Any], captioning: dict[str, Any]) -> Path:
    source = make_folder(folder, [entry(number) for number in range(30)])
    (source / "captioning.json").write_text(json.dumps(captioning))
    (source / "multiple_choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    return source


def changed(number: int, **changes: Any) -> list[dict[str, Any]]:
    return [question(n, **changes) if n == number else question(n) for n in range(COUNT)]


DEFECTS: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "answer in lower case": (changed(4, answer="b"), truth(), "line 5 .*answer 'b' is not one of the letters"),
    "answer as an index": (changed(4, answer=1), truth(), "line 5 .*answer '1' is not one of the letters"),
    "answer as text": (changed(4, answer="red"), truth(), "line 5 .*answer 'red' is not one of the letters"),
    "no answer": (changed(4, answer=""), truth(), "line 5 .*answer '' is not one of the letters"),
    "repeated ids": ([question(n, id="x") for n in range(COUNT)], truth(), "same id: x"),
    "no options": (changed(4, options=[]), truth(), "q4 .*needs two options"),
    "no question": ([{"id": "q", "image": entry(0)["image"]}], truth(), "line 1 .*question"),
    "missing picture": (changed(4, image="none.png"), truth(), r"picture none\.png is not in"),
    "empty caption": (changed(99), truth(annotations=captions(3, "")), "at least 1 character"),
    "no caption": (changed(99), truth(annotations=captions(3, None)), "valid string"),
    "picture without caption": (changed(99), truth(annotations=captions(9, "")[:-1]), "1 pictures have no caption"),
    "caption of nothing": (
        changed(99),
        truth(annotations=[*captions(9, ""), {"id": 9, "image_id": 99, "caption": "a"}]),
        "belongs to image 99",
    ),
    "repeated picture ids": (
        changed(99),
        truth(
            images=[{"id": 1, "file_name": entry(n)["image"]} for n in range(COUNT)],
            annotations=[{"id": 1, "image_id": 1, "caption": "a"}],
        ),
        "same id: 1",
    ),
    "cut caption": (changed(99), truth(annotations=captions(3, "x \ud83d")), "entry 3: .*surrogate"),
    "cut option": (changed(4, options=["x \ud83d", "b"]), truth(), "entry q4: .*surrogate"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_ends_the_download_and_names_the_given_file(defect: str, tmp_path: Path) -> None:
    questions, captioning, message = DEFECTS[defect]
    source = with_evaluation(tmp_path / "data", questions, captioning)
    file = "captioning.json" if questions == changed(99) else "multiple_choice.jsonl"
    with pytest.raises(InputError, match=f"{source / file}.*{message}"):
        download(source, tmp_path)


def test_a_line_that_is_not_json_is_named_by_its_number(tmp_path: Path) -> None:
    source = with_evaluation(tmp_path / "data", [question(0)], truth())
    (source / "multiple_choice.jsonl").write_text(json.dumps(question(0)) + "\n\n{'id': 1}\n")
    with pytest.raises(InputError, match="line 3 is not JSON"):
        download(source, tmp_path)


@pytest.mark.parametrize("content", [b"", picture(3)[:40], b"<html>"])
def test_every_evaluation_picture_is_opened(content: bytes, tmp_path: Path) -> None:
    source = with_evaluation(tmp_path / "data", changed(99), truth())
    with zipfile.ZipFile(source / "images.zip", "w") as archive:
        for number in range(30):
            archive.writestr(entry(number)["image"], content if number == 3 else picture(number))
    name = entry(3)["image"]
    with pytest.raises(InputError, match=rf"1 of {COUNT} evaluation pictures can't be opened: picture {name}"):
        download(source, tmp_path)


def test_a_broken_picture_of_mmmu_is_named(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    from components.download.mmmu import write_mmmu
    from components.progress import Progress

    row = {
        "id": "validation_Art_1",
        "question": "<image 1> what?",
        "options": "['a', 'b']",
        "answer": "A",
        "question_type": "multiple-choice",
        "image_1": {"bytes": picture(1)[:50], "path": None},
    }
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "validation-0.parquet")
    with pytest.raises(InputError, match=r"validation_Art_1_1\.png can't be opened"):
        write_mmmu([tmp_path / "validation-0.parquet"], tmp_path, Progress("test"))


def test_what_training_must_not_see_is_listed(tmp_path: Path) -> None:
    source = with_evaluation(tmp_path / "data", [question(20), question(21)], truth())
    folder = download(source, tmp_path).folder
    assert load(folder / "evaluation_pictures.json") == {
        "captioning.json": sorted(entry(number)["image"] for number in range(COUNT)),
        "multiple_choice.jsonl": sorted(entry(number)["image"] for number in (20, 21)),
    }
    assert download(folder, tmp_path / "again").manifest.facts["held_out_questions"] == 2
    assert len(lines(folder / "multiple_choice.jsonl")) == 2


def test_marks_of_more_pictures_than_mmmu_holds_are_taken_out(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    from components.download.mmmu import write_mmmu
    from components.progress import Progress

    row = {
        "id": "validation_Math_7",
        "question": "<image 1> <image 2> What comes next?",
        "options": "['<image 7>, <image 8>', '<image 2>, <image 30>']",
        "answer": "A",
        "question_type": "multiple-choice",
        **{f"image_{number}": {"bytes": picture(number), "path": None} for number in (1, 2)},
    }
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "validation-0.parquet")
    (tmp_path / "pictures").mkdir()
    (found,) = write_mmmu([tmp_path / "validation-0.parquet"], tmp_path, Progress("test"))
    assert (found["question"], found["options"]) == (row["question"], [", ", "<image 2>, "])
