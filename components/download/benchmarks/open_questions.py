"""Benchmarks of open questions, and of yes and no."""

import json
import re

from components.download.benchmarks.benchmark import Annotations, Benchmark, Row, first, text
from components.metrics.mme import PART_OF

_MME_INSTRUCTION = "Please answer yes or no."
_MME_WITH_IMAGES_FOLDER = ("artwork", "celebrity", "landmark", "posters", "scene")
_CHARTQA_SPLITS = {"human_test": "human", "augmented_test": "augmented"}


def _pope(raw: Row, number: int) -> Row:
    split = text(raw["category"])
    return {
        "id": f"{split}-{text(raw['question_id'])}",
        "question": raw["question"].strip(),
        "answers": [raw["answer"].strip().lower()],
        "category": split,
    }


def _pope_lines(name: str, content: bytes) -> list[tuple[Row, str]]:
    """Read JSON lines of `question_id`, `image`, `text`, `label`, of the split that the file is named after."""
    split = name.removesuffix(".json").removeprefix("coco_pope_")
    found = []
    for line in content.splitlines():
        if line.strip():
            raw = json.loads(line)
            asked = {"question_id": raw["question_id"], "question": raw["text"], "answer": raw["label"]}
            found.append((_pope({**asked, "category": split}, 0), raw["image"]))
    return found


def _mme(raw: Row, number: int) -> Row:
    return {
        "id": f"{raw['question_id']}-{number}",
        "question": raw["question"].strip().removesuffix(_MME_INSTRUCTION).rstrip(),
        "answers": [raw["answer"].strip().lower().rstrip(".")],
        "category": raw["category"],
        "unit": text(raw["question_id"]),
    }


def _mme_lines(name: str, content: bytes) -> list[tuple[Row, str]]:
    """Read a subtask's lines of picture, question and answer with tabs between them, as in `eval_tool/Your_Results`."""
    subtask = name.removesuffix(".txt")
    folder = f"{subtask}/images" if subtask in _MME_WITH_IMAGES_FOLDER else subtask
    found = []
    for number, line in enumerate(content.decode("utf-8").splitlines()):
        if line.strip():
            picture, question, answer = line.strip().split("\t")
            asked = {"question_id": f"{subtask}/{picture}", "question": question, "answer": answer}
            found.append((_mme({**asked, "category": subtask}, number), f"{folder}/{picture}"))
    return found


def _chartqa(raw: Row, number: int) -> Row:
    return {
        "id": f"chartqa-{number}",
        "question": raw["question"],
        "answers": [text(raw["answer"])],
        "category": _CHARTQA_SPLITS.get(raw["type"], raw["type"]),
    }


def _chartqa_json(name: str, content: bytes) -> list[tuple[Row, str]]:
    """Read a list of `imgname`, `query`, `label`, of the split that the file is named after."""
    split = name.removeprefix("test_").removesuffix(".json")
    found = []
    for number, raw in enumerate(json.loads(content)):
        row = _chartqa({"question": raw["query"], "answer": raw["label"], "type": split}, number)
        found.append(({**row, "id": f"{split}-{number}"}, raw["imgname"]))
    return found


def _docvqa(raw: Row, number: int) -> Row:
    kind = first(raw.get("question_types") or raw.get("answer_type"))
    return {
        "id": text(raw["questionId"]),
        "question": raw["question"],
        "answers": list(raw["answers"]),
        "category": kind,
    }


def _gqa(raw: Row, number: int) -> Row:
    return {
        "id": text(raw["id"]),
        "question": raw["question"],
        "answers": [text(raw["answer"])],
        "category": text((raw.get("types") or {}).get("structural")),
        "picture": text(raw["imageId"]),
    }


def _gqa_questions(name: str, content: bytes) -> list[tuple[Row, str]]:
    """Read the object of question id to question."""
    found = []
    for identifier, raw in json.loads(content).items():
        row = _gqa({**raw, "id": identifier}, 0)
        found.append((row, f"{row.pop('picture')}.jpg"))
    return found


def _ocrbench(raw: Row, number: int) -> Row:
    answers = raw["answer"] if isinstance(raw["answer"], list) else [raw["answer"]]
    return {
        "id": f"ocrbench-{number}",
        "question": raw["question"].strip(),
        "answers": [text(answer) for answer in answers],
        "category": raw["question_type"],
    }


def _ocrbench_json(name: str, content: bytes) -> list[tuple[Row, str]]:
    """Read a list of `image_path`, `question`, `answers`, `type`."""
    return [
        (_ocrbench({**raw, "answer": raw["answers"], "question_type": raw["type"]}, number), raw["image_path"])
        for number, raw in enumerate(json.loads(content))
    ]


def _textvqa(raw: Row, number: int) -> Row:
    return {
        "id": text(raw["question_id"]),
        "question": raw["question"].capitalize(),
        "answers": [text(answer) for answer in raw["answers"]],
        "hint": ", ".join(raw.get("ocr_tokens") or ()),
    }


_TEST = re.compile(r"(^|/)test-[^/]*\.parquet$")

POPE = Benchmark(
    re.compile(r"^(?!.*Full/)(.*/)?test-[^/]*\.parquet$"),
    _pope,
    expected="image, question_id, question, answer, category",
    annotated=Annotations(re.compile(r"coco_pope_[a-z]+\.json$"), _pope_lines),
)
MME = Benchmark(
    _TEST,
    _mme,
    expected="image, question_id, question, answer, category",
    annotated=Annotations(re.compile(rf"(^|/)({'|'.join(PART_OF)})\.txt$"), _mme_lines),
)
CHARTQA = Benchmark(
    _TEST,
    _chartqa,
    expected="image, question, answer, type",
    annotated=Annotations(re.compile(r"test_(human|augmented)\.json$"), _chartqa_json),
)
DOCVQA = Benchmark(
    re.compile(r"(^|/)DocVQA/validation-[^/]*\.parquet$"),
    _docvqa,
    expected="image, questionId, question, answers, question_types",
)
INFOVQA = Benchmark(
    re.compile(r"(^|/)InfographicVQA/validation-[^/]*\.parquet$"),
    _docvqa,
    expected="image, questionId, question, answers, answer_type",
)
GQA = Benchmark(
    re.compile(r"(^|/)testdev_balanced_instructions/testdev-[^/]*\.parquet$"),
    _gqa,
    pictures=(),
    expected="id, imageId, question, answer, types",
    shared=(re.compile(r"(^|/)testdev_balanced_images/testdev-[^/]*\.parquet$"), "id", "image"),
    annotated=Annotations(re.compile(r"testdev_balanced_questions\.json$"), _gqa_questions),
)
OCRBENCH = Benchmark(
    _TEST,
    _ocrbench,
    expected="image, question, answer, question_type",
    annotated=Annotations(re.compile(r"OCRBench\.json$"), _ocrbench_json),
)
TEXTVQA = Benchmark(
    re.compile(r"(^|/)validation-[^/]*\.parquet$"),
    _textvqa,
    expected="image, question_id, question, answers, ocr_tokens",
)
