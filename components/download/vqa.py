"""Questions that ten people answered, from the files that VQAv2 and TextVQA are published in."""

import json
import zipfile
from pathlib import Path
from typing import Any

from components.download.coco import find_name, find_numbers
from components.download.pictures import Pictures
from components.errors import InputError

Row = dict[str, Any]


def read_vqav2(questions: Path, annotations: Path, pictures: Pictures, prefixes: tuple[str, ...]) -> list[Row]:
    """Return the lines of `vqav2.jsonl`: `id`, `image`, `question`, `answers` (of all people), `category` (kind of answer).

    Args:
        questions: `v2_OpenEnded_mscoco_val2014_questions.json`, or the zip with it.
        annotations: `v2_mscoco_val2014_annotations.json`, or the zip with it.
        pictures: All pictures; those of COCO end with their number.
        prefixes: Prefixes of the roots that hold those of these questions.

    Raises:
        InputError: A file has another layout, a question has no answers, or a picture is not there.
    """
    asked = _items(questions, "questions")
    answered = {item.get("question_id"): item for item in _items(annotations, "annotations")}
    try:
        lost = [item["question_id"] for item in asked if item["question_id"] not in answered]
        if lost:
            raise InputError(
                f"{annotations} has no answers to {len(lost)} of {len(asked)} questions, {lost[0]} is the first. Are these "
                "the annotations of the same split?"
            )
        numbers = list(dict.fromkeys(int(item["image_id"]) for item in asked))
        names = find_numbers(questions, numbers, pictures, prefixes)
        rows = []
        for item in asked:
            answer = answered[item["question_id"]]
            rows.append(
                {
                    "id": str(item["question_id"]),
                    "image": names[int(item["image_id"])],
                    "question": item["question"],
                    "answers": [str(given["answer"]) for given in answer["answers"]],
                    "category": answer["answer_type"],
                }
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{questions} or {annotations} is not in VQAv2's layout ({error!r}): expected question_id, image_id, question; "
            "question_id, answers, answer_type."
        ) from error
    return rows


def read_textvqa(path: Path, pictures: Pictures, prefixes: tuple[str, ...], words: Path | None = None) -> list[Row]:
    """Return the lines of `textvqa.jsonl`: `id`, `image`, `question`, `answers` (of all people), `hint` (the OCR's words).

    The question begins with a capital letter, as lmms-eval asks it.

    Args:
        path: `TextVQA_0.5.1_val.json`.
        pictures: All pictures; a picture's file has its id for a name.
        prefixes: Prefixes of the roots that hold those of these questions.
        words: `TextVQA_Rosetta_OCR_v0.2_val.json`; None to take the words of the questions' file, if it has any.

    Raises:
        InputError: The file has another layout, or a picture is not there.
    """
    items = _items(path, "data")
    try:
        found = {
            item["image_id"]: item["ocr_tokens"]
            for item in (_items(words, "data") if words else items)
            if "ocr_tokens" in item
        }
        names = [f"{item['image_id']}.jpg" for item in items]
        pictures.settle(f"{prefix}{name}" for prefix in prefixes for name in names)
        return [
            {
                "id": str(item["question_id"]),
                "image": find_name(path, name, pictures, prefixes),
                "question": item["question"].capitalize(),
                "answers": [str(answer) for answer in item["answers"]],
                **({"hint": ", ".join(found[item["image_id"]])} if item["image_id"] in found else {}),
            }
            for item, name in zip(items, names, strict=True)
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not in TextVQA's layout ({error!r}): expected question_id, image_id, question, answers. The test "
            "split has no answers: use the validation split."
        ) from error


def _items(path: Path, key: str) -> list[Row]:
    """Return the list under a key of a JSON file, or of the only one in a zip."""
    try:
        items = json.loads(_content(path))[key]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} must be a JSON object with a list `{key}`: {error!r}") from error
    if not isinstance(items, list) or not items:
        raise InputError(f"{path}: `{key}` must be a list of questions; it holds none.")
    return items


def _content(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".json")]
        if len(names) != 1:
            raise InputError(f"{path} has {len(names)} JSON files: expected one. Name the JSON file itself.")
        return archive.read(names[0])
