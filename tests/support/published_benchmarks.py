"""Small data in the layouts that the benchmarks are published in: tables with pictures, and authors' own annotations."""

import base64
import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from components.metrics.mme import PART_OF

Row = dict[str, Any]


def picture(number: int, kind: str = "JPEG") -> bytes:
    """Return a small picture; equal numbers give equal bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (number * 37 % 256, number * 91 % 256, number % 256)).save(buffer, kind)
    return buffer.getvalue()


def shown(number: int, kind: str = "JPEG") -> dict[str, Any]:
    """Return a picture as the hub's tables hold it."""
    return {"bytes": picture(number, kind), "path": f"{number}.{kind.lower()}"}


def parquet(path: Path, rows: Sequence[Row]) -> None:
    """Write a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


POPE = [
    {
        "id": str(row),
        "question_id": str(row % 4 + 1),
        "question": f"Is there a thing {row % 4} in the image?",
        "answer": "yes" if row % 2 else "no",
        "image_source": f"COCO_val2014_{row % 2}",
        "image": shown(row % 2),
        "category": split,
    }
    for split in ("adversarial", "popular", "random")
    for row in range(4)
]
MME = [
    {
        "question_id": f"{subtask}/{number:04d}.png",
        "image": shown(20 + number),
        "question": f"Is it {word}? Please answer yes or no.",
        "answer": word.capitalize(),
        "category": subtask,
    }
    for number, subtask in enumerate(PART_OF)
    for word in ("yes", "no")
]
SCIENCEQA = [
    {
        "image": shown(40 + row, "PNG"),
        "question": "Which is it?",
        "choices": ["a solid", "a liquid", "a gas"][: 2 + row % 2],
        "answer": row % 2,
        "hint": "It flows." if row else "",
        "subject": "natural science",
        "grade": f"grade{2 + 5 * row}",
        "topic": "physics",
    }
    for row in range(2)
]
AI2D = [
    {"question": "Which label?", "options": ["A", "B", "root", "leaf"], "answer": str(row), "image": shown(50 + row)}
    for row in range(3)
]
CHARTQA = [
    {"type": kind, "question": "How many?", "answer": answer, "image": shown(60 + row)}
    for row, (kind, answer) in enumerate([("human_test", "14"), ("augmented_test", "0.57"), ("human_test", "Blue")])
]
DOCVQA = [
    {
        "questionId": str(337 + row),
        "question": "What is the date?",
        "question_types": ["handwritten", "form"] if row else ["layout"],
        "image": shown(70),
        "docId": 279,
        "answers": ["1/8/93", "1/8/1993"],
    }
    for row in range(2)
]
INFOVQA = [
    {
        "questionId": 98313,
        "question": "How many?",
        "answers": ["12%"],
        "answer_type": ["single span"],
        "image": shown(71),
    }
]
GQA_QUESTIONS = [
    {
        "id": f"2{row:08d}",
        "imageId": f"n{row % 2}",
        "question": "Is it overcast?",
        "answer": "no",
        "fullAnswer": "No, it is clear.",
        "isBalanced": True,
        "types": {"structural": "verify", "semantic": "global", "detailed": "weatherVerify"},
    }
    for row in range(3)
]
GQA_PICTURES = [{"id": f"n{row}", "image": shown(80 + row)} for row in range(2)]
MMBENCH = [
    {
        "index": 241 + row,
        "question": "Which is it?",
        "hint": "nan" if row else "A hint.",
        "answer": "B",
        "A": "cat",
        "B": "dog",
        "C": "cow" if row else None,
        "D": None,
        "category": "identity_reasoning",
        "L2-category": "attribute_reasoning",
        "source": "x",
        "split": "dev",
        "image": shown(90 + row),
    }
    for row in range(2)
]
SEEDBENCH = [
    {
        "answer": "A",
        "choice_a": "One",
        "choice_b": "Two",
        "choice_c": "Three",
        "choice_d": "Four",
        "data_id": str(row),
        "data_type": "video" if row == 1 else "image",
        "question": "How many towels?",
        "question_id": f"10{row}",
        "question_type_id": 5,
        "image": [shown(100 + row)],
    }
    for row in range(3)
]
ONLY_THE_LETTER = "Please answer directly with only the letter of the correct option and nothing else."
REALWORLDQA = [
    {
        "image": shown(110, "PNG"),
        "question": f"In which direction?\nA. Left\nB. Right\nC. Up\n{ONLY_THE_LETTER}",
        "answer": "B",
        "image_path": "0.png",
    },
    {
        "image": shown(111, "PNG"),
        "question": "How many cars?\nPlease answer directly with a single word or number.",
        "answer": "3",
        "image_path": "1.png",
    },
]
OCRBENCH = [
    {
        "dataset": dataset,
        "question": "what is written in the image?",
        "question_type": kind,
        "answer": [answer],
        "image": shown(number),
    }
    for dataset, kind, answer, number in (
        ("IIIT5K", "Regular Text Recognition", "CENTRE", 120),
        ("HME100k", "Handwritten Mathematical Expression Recognition", "x ^ 2", 121),
    )
]
MMMU_PRO = [
    {
        "id": f"test_History_{row}",
        "question": "What does <image 1> show?",
        "options": str([f"option {number}" for number in range(10)]),
        "answer": "J" if row else "C",
        "subject": "History",
        **{f"image_{number}": None for number in range(1, 8)},
        "image_1": shown(130 + row),
        "image_2": shown(139) if row else None,
    }
    for row in range(2)
]
MMMU_PRO_VISION = [
    {"id": "test_Art_Theory_1", "image": shown(140), "options": "['a', 'b']", "answer": "B", "subject": "Art_Theory"}
]
TEXTVQA = [
    {
        "image_id": f"t{row}",
        "question_id": 34602 + row,
        "question": "what is the brand of this camera?",
        "image": shown(150 + row),
        "answers": ["nokia"] * 10,
        "ocr_tokens": ["NOKIA", "8"] if row else [],
    }
    for row in range(2)
]
NOCAPS = [
    {"image": shown(160 + row), "image_id": row, "annotations_captions": [f"a thing {row}", f"one thing {row}"]}
    for row in range(3)
]
FLICKR30K = [
    {
        "image": shown(170 + row),
        "caption": [f"a man {row}"] * 5,
        "sentids": ["0"] * 5,
        "split": "train" if row == 1 else "test",
        "img_id": str(row),
        "filename": f"{row}.jpg",
    }
    for row in range(3)
]

TABLES: dict[str, dict[str, list[Row]]] = {
    "pope": {"data/test-00000-of-00001.parquet": POPE, "Full/adversarial-00000-of-00001.parquet": POPE[:4]},
    "mme": {"data/test-00000-of-00002.parquet": MME[:10], "data/test-00001-of-00002.parquet": MME[10:]},
    "scienceqa": {"ScienceQA-IMG/test-00000-of-00001.parquet": SCIENCEQA},
    "ai2d": {"data/test-00000-of-00001.parquet": AI2D},
    "chartqa": {"data/test-00000-of-00001.parquet": CHARTQA},
    "docvqa": {
        "DocVQA/validation-00000-of-00001.parquet": DOCVQA,
        "InfographicVQA/validation-00000-of-00001.parquet": INFOVQA,
        "DocVQA/test-00000-of-00001.parquet": [{**DOCVQA[0], "answers": None}],
    },
    "infovqa": {"InfographicVQA/validation-00000-of-00001.parquet": INFOVQA},
    "gqa": {
        "testdev_balanced_instructions/testdev-00000-of-00001.parquet": GQA_QUESTIONS,
        "testdev_balanced_images/testdev-00000-of-00001.parquet": GQA_PICTURES,
    },
    "mmbench": {"en/dev-00000-of-00001.parquet": MMBENCH},
    "seedbench": {"data/test-00000-of-00001.parquet": SEEDBENCH},
    "realworldqa": {"data/test-00000-of-00001.parquet": REALWORLDQA},
    "ocrbench": {"data/test-00000-of-00001.parquet": OCRBENCH},
    "mmmu_pro": {"standard (10 options)/test-00000-of-00001.parquet": MMMU_PRO},
    "mmmu_pro_vision": {"vision/test-00000-of-00001.parquet": MMMU_PRO_VISION},
    "textvqa": {"data/validation-00000-of-00001.parquet": TEXTVQA},
    "nocaps": {"data/validation-00000-of-00001.parquet": NOCAPS},
    "flickr30k": {"data/test-00000-of-00001.parquet": FLICKR30K},
}
"""Benchmark to the files of its dataset and their rows."""


def publish_tables(folder: Path, names: Sequence[str] = tuple(TABLES)) -> dict[str, str]:
    """Write benchmarks' tables; return benchmark to the URI of its folder."""
    for name in names:
        for file, rows in TABLES[name].items():
            parquet(folder / name / file, rows)
    return {name: (folder / name).as_uri() for name in names}


def publish_files(folder: Path) -> dict[str, Any]:
    """Write benchmarks as their authors publish them; return the setting `benchmark_files`."""

    def pictures(name: str, members: dict[str, int], prefix: str) -> list[dict[str, str]]:
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for member, number in members.items():
                archive.writestr(member, picture(number))
        return [{"uri": (folder / f"{name}.zip").as_uri(), "prefix": prefix}]

    (folder / "pope").mkdir(parents=True)
    for split in ("adversarial", "popular", "random"):
        lines = [
            {
                "question_id": row["question_id"],
                "image": f"COCO_val2014_{int(row['question_id']) % 2}.jpg",
                "text": row["question"],
                "label": row["answer"],
            }
            for row in POPE
            if row["category"] == split
        ]
        (folder / "pope" / f"coco_pope_{split}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions = {row["id"]: {key: value for key, value in row.items() if key != "id"} for row in GQA_QUESTIONS}
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(questions))
    truth = {
        "images": [
            {"id": row, "file_name": f"open{row}.jpg", "domain": ("in-domain", "near-domain", "out-domain")[row]} for row in range(3)
        ],
        "annotations": [{"id": row, "image_id": row % 3, "caption": f"a thing {row}"} for row in range(6)],
    }  # fmt: skip
    (folder / "nocaps_val_4500_captions.json").write_text(json.dumps(truth))
    (folder / "mme").mkdir()
    for subtask in PART_OF:
        lines = [
            "\t".join((row["question_id"].split("/")[1], row["question"], row["answer"]))
            for row in MME
            if row["category"] == subtask
        ]
        (folder / "mme" / f"{subtask}.txt").write_text("\n".join(lines) + "\n")
    with_images = ("artwork", "celebrity", "landmark", "posters", "scene")
    mme = {
        f"{subtask}/images/{number:04d}.png" if subtask in with_images else f"{subtask}/{number:04d}.png": 20 + number
        for number, subtask in enumerate(PART_OF)
    }
    (folder / "chartqa").mkdir()
    for split in ("human", "augmented"):
        charts = [
            {"imgname": f"{row}.png", "query": chart["question"], "label": chart["answer"]}
            for row, chart in enumerate(CHARTQA)
            if chart["type"] == f"{split}_test"
        ]
        (folder / "chartqa" / f"test_{split}.json").write_text(json.dumps(charts))
    problems = {
        str(row + 4): {**{key: value for key, value in problem.items() if key != "image"}, "image": image, "split": split}
        for row, (problem, image, split) in enumerate(
            [(SCIENCEQA[0], "image.png", "test"), (SCIENCEQA[1], "image.png", "test"), (SCIENCEQA[0], None, "test"),
             (SCIENCEQA[0], "image.png", "val")]
        )
    }  # fmt: skip
    (folder / "problems.json").write_text(json.dumps(problems))
    seed = [{key: value for key, value in row.items() if key != "image"} for row in SEEDBENCH]
    (folder / "SEED-Bench.json").write_text(json.dumps({"questions": seed, "question_type": {}}))
    ocr = [
        {
            "dataset_name": row["dataset"],
            "id": place,
            "image_path": f"set/{place}.png",
            "question": row["question"],
            "answers": row["answer"] if place else row["answer"][0],
            "type": row["question_type"],
        }
        for place, row in enumerate(OCRBENCH)
    ]
    (folder / "OCRBench.json").write_text(json.dumps(ocr))
    return {
        "mme": {"annotations": (folder / "mme").as_uri(), "images": pictures("mme", mme, "mme/")},
        "chartqa": {
            "annotations": (folder / "chartqa").as_uri(),
            "images": pictures("charts", {f"test/png/{row}.png": 60 + row for row in range(3)}, "chartqa/"),
        },
        "scienceqa": {
            "annotations": (folder / "problems.json").as_uri(),
            "images": pictures("science", {f"test/{row + 4}/image.png": 40 + row for row in range(2)}, "scienceqa/"),
        },
        "seedbench": {
            "annotations": (folder / "SEED-Bench.json").as_uri(),
            "images": pictures("seed", {f"{row}": 100 + row for row in (0, 2)}, "seedbench/"),
        },
        "ocrbench": {
            "annotations": (folder / "OCRBench.json").as_uri(),
            "images": pictures("ocr", {f"set/{row}.png": 120 + row for row in range(2)}, "ocrbench/"),
        },
        "pope": {
            "annotations": (folder / "pope").as_uri(),
            "images": pictures(
                "val2014", {f"val2014/COCO_val2014_{row}.jpg": row for row in range(2)}, "coco/val2014/"
            ),
        },
        "gqa": {
            "annotations": (folder / "testdev_balanced_questions.json").as_uri(),
            "images": pictures("gqa", {f"images/n{row}.jpg": 80 + row for row in range(2)}, "gqa/images/"),
        },
        "nocaps": {
            "annotations": (folder / "nocaps_val_4500_captions.json").as_uri(),
            "images": pictures("open", {f"open{row}.jpg": 160 + row for row in range(3)}, "nocaps/"),
        },
    }


def write_mmbench_tsv(path: Path) -> None:
    """Write MMBench as its authors publish it: a table of text with pictures in base64; rotations follow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [name for name in MMBENCH[0] if name != "image"] + ["image"]
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, delimiter="\t")
        writer.writeheader()
        for turn in range(2):
            for row in MMBENCH:
                image = base64.b64encode(row["image"]["bytes"]).decode()
                writer.writerow({**row, "index": row["index"] + 1_000_000 * turn, "image": image})


def training(folder: Path) -> dict[str, Any]:
    """Write captions to learn from; return the setting `pretrain`."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [
        {
            "id": str(number),
            "image": f"{number}.jpg",
            "conversations": [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": f"a thing {number}"}],
        }
        for number in range(12)
    ]  # fmt: skip
    (folder / "captions.json").write_text(json.dumps(entries))
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        for number in range(12):
            archive.writestr(f"{number}.jpg", picture(200 + number))
    return {"annotations": (folder / "captions.json").as_uri(), "images": [{"uri": (folder / "train.zip").as_uri()}]}
