"""Twelve pictures of one's own, from the folder to scores, by the stages that the DAG calls."""

import json
from pathlib import Path

import pytest
from PIL import Image

from components.context import RunContext
from components.evaluate.scores import read_scores
from components.evaluate.stage import run_evaluate
from components.generate.stage import run_generate
from components.metrics import java
from components.stage.manifest import read_manifest
from components.training.stage import run_training
from components.training.zero_shot_texts import read_texts
from pipelines.preset_files import load_preset
from tests.support.small_chain import prepare

COLOURS = ["red", "green", "blue", "black", "white", "grey", "brown", "orange", "pink", "purple", "silver", "gold"]


@pytest.mark.usefixtures("forked_launches")
def test_twelve_pictures_come_to_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "find_java", lambda: None)  # METEOR starts slowly, and needs no twelve pictures
    source = tmp_path / "own"
    (source / "images").mkdir(parents=True)
    entries = []
    for colour in COLOURS:
        Image.new("RGB", (60, 40), colour).save(source / "images" / f"{colour}.jpg")
        turns = [
            {"from": "human", "value": "Describe the picture.\n<image>"},
            {"from": "gpt", "value": f"All is {colour}."},
        ]
        entries.append({"id": colour, "image": f"{colour}.jpg", "conversations": turns})
    (source / "data.json").write_text(json.dumps(entries))
    recipe = ["iterations=4", "caption_interval=4", "save_interval=4", "evaluation_interval=4"]
    config = load_preset(
        "laptop", [f"data.source={source.as_uri()}", *(f"pretrain.recipe.{setting}" for setting in recipe)]
    )
    context = RunContext(run_id="own", run_name="own", workspace=tmp_path / "workspace")
    raw, captions, model = prepare(config, context)
    assert read_manifest(raw).facts["held_out_pictures"] == 4
    trained = run_training(context, "pretrain", config.pretrain, model, captions).folder
    assert [samples[0].step for samples in read_texts(trained)] == [0, 4]
    evaluation = config.evaluations["captioning"]
    asked = evaluation.generate.model_copy(update={"tensor_parallel": 1, "max_new_tokens": 8})
    predictions = run_generate(context, asked, trained, raw, 0).folder
    scores = read_scores(run_evaluate(context, evaluation.evaluate, [predictions], trained, raw).folder)
    assert scores.n_scored == scores.n_expected == 4
