"""Benchmarks whose questions have options."""

import ast
import json
import re
from collections.abc import Sequence

from components.download.benchmarks.benchmark import Annotations, Benchmark, Row, letter, text
from components.tasks.picture_marks import without_marks
from components.tasks.template import LETTERS

_OPTION = re.compile(r"^([A-Z])[.)] (.*)$", re.MULTILINE)
_SCIENCE_GRADES = {
    **{f"grade{grade}": "1 to 6" for grade in range(1, 7)},
    **{f"grade{grade}": "7 to 12" for grade in range(7, 13)},
}
_SEED_TYPES = (
    "scene understanding",
    "instance identity",
    "instance attributes",
    "instance location",
    "instances counting",
    "spatial relation",
    "instance interaction",
    "visual reasoning",
    "text understanding",
)
# Rows beyond are rotations of the ones before, in the file for circular evaluation.
_MMBENCH_ROTATIONS = 1_000_000
_MMBENCH_LETTERS = "ABCDE"


def _scienceqa(raw: Row, number: int) -> Row:
    return {
        "id": f"scienceqa-{number}",
        "question": raw["question"],
        "options": list(raw["choices"]),
        "answer": letter(raw["answer"]),
        "hint": text(raw.get("hint")),
        "groups": {"subject": text(raw.get("subject")), "grade": _SCIENCE_GRADES.get(text(raw.get("grade")), "")},
    }


def _scienceqa_json(name: str, content: bytes) -> list[tuple[Row, str]]:
    """Read the object of problem id to problem: those of the test split that have a picture."""
    return [
        ({**_scienceqa(raw, 0), "id": identifier}, f"test/{identifier}/{raw['image']}")
        for identifier, raw in json.loads(content).items()
        if raw["split"] == "test" and raw["image"]
    ]


def _ai2d(raw: Row, number: int) -> Row:
    return {
        "id": f"ai2d-{number}",
        "question": raw["question"],
        "options": list(raw["options"]),
        "answer": letter(raw["answer"]),
    }


def _seedbench(raw: Row, number: int) -> Row | None:
    if raw["data_type"] != "image":
        return None
    kind = int(raw["question_type_id"])
    return {
        "id": text(raw["question_id"]),
        "question": raw["question"],
        "options": [raw[f"choice_{name}"] for name in "abcd"],
        "answer": raw["answer"],
        "category": _SEED_TYPES[kind - 1] if 1 <= kind <= len(_SEED_TYPES) else f"type {kind}",
    }


def _seedbench_json(name: str, content: bytes) -> list[tuple[Row, str]]:
    """Read the object whose `questions` have `data_id`, the name of a picture."""
    rows = [(_seedbench(raw, 0), raw["data_id"]) for raw in json.loads(content)["questions"]]
    return [(row, picture) for row, picture in rows if row is not None]


def _mmbench(raw: Row, number: int) -> Row | None:
    if int(raw["index"]) >= _MMBENCH_ROTATIONS:
        return None
    options: list[str] = []
    for name in _MMBENCH_LETTERS:
        if not text(raw.get(name)):
            break
        options.append(text(raw[name]))
    return {
        "id": text(raw["index"]),
        "question": raw["question"],
        "options": options,
        "answer": raw["answer"],
        "hint": text(raw.get("hint")),
        "category": text(raw.get("category")).replace("_", " "),
        "groups": {"ability": text(raw.get("L2-category") or raw.get("l2-category")).replace("_", " ")},
    }


def _all_rotations(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return every question under all rotations of its options, as one unit."""
    turned = []
    for row in rows:
        options, right = row["options"], LETTERS.index(row["answer"])
        for turn in range(len(options)):
            turned.append(
                {
                    **row,
                    "id": f"{row['id']}-{turn}",
                    "options": options[turn:] + options[:turn],
                    "answer": LETTERS[(right - turn) % len(options)],
                    "unit": row["id"],
                }
            )
    return {"mmbench_circular.jsonl": turned}


def _realworldqa(raw: Row, number: int) -> Row:
    question, answer = raw["question"].strip(), raw["answer"].strip()
    found = _OPTION.findall(question)
    options = [option.strip() for _, option in found]
    lettered = "".join(name for name, _ in found) == LETTERS[: len(found)]
    row = {"id": f"realworldqa-{number}", "question": question}
    if len(options) > 1 and lettered and answer.upper() in tuple(LETTERS[: len(options)]):
        return {**row, "options": options, "answer": answer.upper()}
    return {**row, "answers": [answer] if answer else []}


def _mmmu_pro(raw: Row, number: int) -> Row:
    options = ast.literal_eval(raw["options"]) if isinstance(raw["options"], str) else raw["options"]
    if len(options) == 1 and isinstance(options[0], list):  # validation_Accounting_29
        options = options[0]
    return {
        "id": raw["id"],
        "question": text(raw.get("question")),
        "options": [str(option) for option in options],
        "answer": raw["answer"],
        "category": text(raw.get("subject")).replace(" ", "_"),
    }


def _mmmu_pro_vision(raw: Row, number: int) -> Row:
    """The one picture is a photograph of the question; the marks in its texts are of pictures within it."""
    row = _mmmu_pro(raw, number)
    return {
        **row,
        "question": without_marks(row["question"]),
        "options": [without_marks(one) for one in row["options"]],
    }


SCIENCEQA = Benchmark(
    re.compile(r"(^|/)(ScienceQA-IMG/)?test-[^/]*\.parquet$"),
    _scienceqa,
    expected="image, question, choices, answer, hint",
    annotated=Annotations(re.compile(r"problems\.json$"), _scienceqa_json),
)
AI2D = Benchmark(re.compile(r"(^|/)test-[^/]*\.parquet$"), _ai2d, expected="image, question, options, answer")
SEEDBENCH = Benchmark(
    re.compile(r"(^|/)test-[^/]*\.parquet$"),
    _seedbench,
    expected="image, question, choice_a to choice_d, answer, data_type, question_id, question_type_id",
    annotated=Annotations(re.compile(r"SEED-Bench\.json$"), _seedbench_json),
)
MMBENCH = Benchmark(
    re.compile(r"(^|/)(en/)?dev-[^/]*\.parquet$|(^|/)mmbench_dev[^/]*\.tsv$", re.IGNORECASE),
    _mmbench,
    expected="index, image, question, hint, A to D, answer, category, L2-category",
    more=_all_rotations,
)
REALWORLDQA = Benchmark(re.compile(r"(^|/)test-[^/]*\.parquet$"), _realworldqa, expected="image, question, answer")
MMMU_PRO = Benchmark(
    re.compile(r"(^|/)standard \(10 options\)/test-[^/]*\.parquet$"),
    _mmmu_pro,
    pictures=tuple(f"image_{number}" for number in range(1, 8)),
    expected="id, question, options, answer, subject, image_1 ...",
)
MMMU_PRO_VISION = Benchmark(
    re.compile(r"(^|/)vision/test-[^/]*\.parquet$"), _mmmu_pro_vision, expected="id, image, options, answer, subject"
)
