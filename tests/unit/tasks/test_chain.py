"""Small copies of the published benchmarks, from their own files to scores: download, generate, evaluate."""

import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from components.download.config import DatasetConfig
from components.download.stage import run_download_dataset
from components.evaluate.config import EvaluateConfig
from components.evaluate.scores import read_scores
from components.evaluate.stage import run_evaluate
from components.generate.config import GenerateConfig
from components.generate.stage import run_generate
from components.metrics import java
from tests.support.evaluation_world import COLOURS, SHAPES, SIZES, describe, draw
from tests.support.model_world import World, build_world

SIDE = 32
VAL2014 = (391895, 522418, 184613, 9)
EXPECTED = {"captioning": 4, "multiple_choice": 4, "mmmu": 3, "vqav2": 4, "textvqa": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    # The test tokenizer makes a token of nearly every letter.
    return build_world(tmp_path_factory.mktemp("world"), max_position_embeddings=512)


@pytest.fixture(scope="module")
def raw(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = published(tmp_path_factory.mktemp("published"))
    return run_download_dataset(world.context, config).folder


def scene(generator: random.Random) -> tuple[str, str, str]:
    return generator.choice(SIZES), generator.choice(list(COLOURS)), generator.choice(SHAPES)


def published(folder: Path) -> DatasetConfig:
    """Write the files as they are published, and name them."""
    generator = random.Random(0)
    captions = {number: describe(scene(generator)) for number in VAL2014}
    scenes = {name: scene(generator) for name in [f"train/{number}.jpg" for number in range(12)]}

    def pictures(name: str, names: list[str]) -> dict[str, str]:
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for member in names:
                archive.writestr(member, draw(scene(generator), generator, SIDE))
        return {"uri": (folder / f"{name}.zip").as_uri()}

    def document(name: str, content: Any) -> str:
        (folder / f"{name}.json").write_text(json.dumps(content))
        return (folder / f"{name}.json").as_uri()

    entries = [
        {
            "id": name,
            "image": name,
            "conversations": [
                {"from": "human", "value": "<image>\nDescribe it."},
                {"from": "gpt", "value": generator.choice(describe(shown))},
            ],
        }
        for name, shown in scenes.items()
    ]
    coco = pictures("val2014", [f"val2014/COCO_val2014_{number:012d}.jpg" for number in VAL2014])
    coco["prefix"] = "coco/val2014/"
    truth = {
        "annotations": [
            {"id": len(texts) * place + row, "image_id": number, "caption": text}
            for place, (number, texts) in enumerate(captions.items())
            for row, text in enumerate(texts)
        ]
    }
    asked = [{"question_id": number, "image_id": number, "question": "How many?"} for number in VAL2014]
    answered = [
        {
            "question_id": number,
            "image_id": number,
            "answer_type": "number",
            "answers": [{"answer_id": place, "answer": "1" if place < 8 else "two"} for place in range(10)],
        }
        for number in VAL2014
    ]
    texts = [
        {"question_id": place, "image_id": f"t{place}", "question": "which brand?", "answers": ["acme"] * 10}
        for place in range(2)
    ]
    text_pictures = pictures("textvqa", [f"train_images/t{place}.jpg" for place in range(2)])
    text_pictures["prefix"] = "textvqa/train_images/"
    mmmu(folder / "MMMU" / "validation-00000-of-00001.parquet", generator)
    return DatasetConfig.model_validate(
        {
            "source": "named://",
            "pretrain": {"annotations": document("captions", entries), "images": [pictures("images", list(scenes))]},
            "evaluation": {
                "captioning": {"annotations": document("karpathy", truth), "images": [coco]},
                "mmmu": (folder / "MMMU").as_uri() + "/",
                "vqav2": {
                    "questions": document("questions", {"questions": asked}),
                    "annotations": document("annotations", {"annotations": answered}),
                    "images": [coco],
                },
                "textvqa": {"annotations": document("TextVQA", {"data": texts}), "images": [text_pictures]},
            },
        }
    )


def mmmu(path: Path, generator: random.Random) -> None:
    buffer = io.BytesIO(draw(scene(generator), generator, SIDE))
    shown = {"bytes": buffer.getvalue(), "path": "a.jpg"}
    other = {"bytes": draw(scene(generator), generator, SIDE), "path": "b.jpg"}
    row = {"question": "<image 1> Which?", "options": "['a', 'b']", "answer": "A", "question_type": "multiple-choice"}
    rows = [
        {"id": "validation_Math_1", **row, "image_1": shown, "image_2": None},
        {"id": "validation_Math_2", **row, "image_1": shown, "image_2": other},
        {
            "id": "validation_Art_1",
            **row,
            "options": "[]",
            "answer": "['4', 'four']",
            "question_type": "open",
            "image_1": other,
            "image_2": None,
        },
    ]
    path.parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize("task", EXPECTED)
def test_a_benchmark_runs_from_its_published_files_to_scores(
    world: World, raw: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "find_java", lambda: None)  # METEOR starts slowly and is tested elsewhere
    controls = ("none", "blank") if task == "mmmu" else ("none", "blank", "shuffled")
    config = GenerateConfig(task=task, partitions=2, max_new_tokens=3, controls=controls)
    folders = [run_generate(world.context, config, world.model, raw, part).folder for part in range(2)]
    output = run_evaluate(world.context, EvaluateConfig(task=task, samples=3), folders, world.model, raw)
    scores = read_scores(output.folder)
    assert (scores.n_expected, scores.n_scored, scores.n_dataset) == (EXPECTED[task],) * 3
    assert scores.partial == ""
    assert {*controls[1:], "constant"} <= set(scores.controls)
    assert {"torch", "transformers", "megatron-core"} <= set(scores.versions["generate"])
    own = scores.metrics[scores.headline]
    assert own.low is not None
    assert own.high is not None
    assert own.low <= own.value <= own.high
    levels = {(score.level, name): score.n for name, score in scores.categories.items()}
    if task == "mmmu":
        assert levels == {
            ("discipline", "Art and Design"): 1,
            ("discipline", "Science"): 2,
            ("subject", "Art"): 1,
            ("subject", "Math"): 2,
            ("form", "open"): 1,
            ("form", "with options"): 2,
        }
        assert scores.listed == {"Questions about several pictures, of which the first is shown": ["validation_Math_2"]}
        assert scores.constant == "A"
        assert scores.controls["constant"]["accuracy"].value == pytest.approx(200 / 3, abs=0.01)
    if task == "vqav2":
        assert levels == {("kind of answer", "number"): 4}
        assert (scores.constant, scores.controls["constant"]["vqa_accuracy"].value) == ("1", 100)
