"""What is said beside a score of the test pictures that training saw."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.context import RunContext
from components.data.asked_questions import packed, question_hash
from components.evaluate.seen import SeenInTraining, seen_in_training
from components.stage.part import part_of
from components.stage.runner import StageWork
from components.storage.checksum import sha256_file
from tests.support.evaluation_world import finished_stage

NAMES = ["test/a.jpg", "test/b.jpg", "test/c.jpg"]


def world(
    workspace: Path, facts: dict[str, Any] | None, seen: list[str], **split: Any
) -> tuple[RunContext, Path, Path]:
    """Make a model that was trained on what a conversion with these facts wrote."""
    context = RunContext(run_id="r", run_name="r", workspace=workspace)

    def raw(work: StageWork) -> dict[str, Any]:
        (work.folder / "evaluation_pictures.json").write_text(json.dumps({"captioning.json": NAMES}))
        return {}

    dataset = finished_stage(context, "download/dataset", raw)
    listed = sha256_file(dataset / "evaluation_pictures.json")

    def convert(work: StageWork) -> dict[str, Any]:
        rows = [{"key": "k", "test_picture": name, "likeness": "near", "trained_on": True} for name in seen]
        (work.folder / "test_pictures_seen.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (work.folder / "questions").mkdir()
        hashes = packed(map(question_hash, ("what is it", "why")))
        (work.folder / "questions" / "sft-000000.u64").write_bytes(hashes)
        return (
            {"decontamination": {"compared_with": listed, **facts}, "questions_noted": 2} if facts is not None else {}
        )

    shards = finished_stage(context, "wds_conversion/sft", convert)
    part = part_of(shards, ["test_pictures_seen.jsonl"])
    split_folder = finished_stage(context, "energon_split/sft", lambda work: split, {"shards": part})
    model = finished_stage(context, "sft", lambda work: {}, {"dataset": split_folder})
    return context, model, dataset


def asked(context: RunContext, model: Path, raw: Path) -> SeenInTraining:
    return seen_in_training(context, model, raw, NAMES)


@pytest.mark.parametrize("seen", [[], ["test/b.jpg"], ["test/b.jpg", "test/b.jpg", "other/x.jpg"]])
def test_what_stayed_in_training_is_counted(seen: list[str], tmp_path: Path) -> None:
    found = asked(*world(tmp_path, {"mode": "report"}, seen))
    assert found.sentence == f"{len(set(seen) & set(NAMES))} of 3 test pictures seen in training."


@pytest.mark.parametrize(
    ("facts", "split", "why"),
    [
        ({"mode": "off"}, {}, "`decontaminate` of wds_conversion/sft is off"),
        ({"mode": "drop", "compared_with": "other"}, {}, "other evaluation data"),
        (None, {}, "older version"),
        ({"mode": "drop"}, {"blended_with": 1}, "blend_with"),
    ],
)
def test_what_is_not_known_is_not_called_none(
    facts: dict[str, Any] | None, split: dict[str, Any], why: str, tmp_path: Path
) -> None:
    found = asked(*world(tmp_path, facts, [], **split))
    assert found.seen is None
    assert why in found.sentence


def test_questions_that_training_asks_are_counted(tmp_path: Path) -> None:
    context, model, raw = world(tmp_path / "known", {"mode": "off"}, [])
    questions = ["What is it?", "What is  it", "Where?", ""]
    found = seen_in_training(context, model, raw, NAMES, questions)
    assert (found.questions, found.asked, found.seen) == (2, 1, None)
    assert found.sentence.endswith(" 1 of its 2 different questions asked in training, of any picture.")
    assert "questions" not in seen_in_training(context, model, raw, NAMES, [""]).sentence
    for facts, split in ((None, {}), ({"mode": "drop"}, {"blended_with": 1})):
        unknown = seen_in_training(*world(tmp_path / str(split), facts, [], **split), NAMES, questions)
        assert (unknown.questions, unknown.asked) == (2, None)
        assert "questions" not in unknown.sentence


def test_of_a_model_from_elsewhere_nothing_is_known(tmp_path: Path) -> None:
    context, _, raw = world(tmp_path, {"mode": "drop"}, [])
    model = finished_stage(context, "published", lambda work: {})
    assert "training data is not here" in asked(context, model, raw).sentence
    assert SeenInTraining(pictures=5000, seen=0).sentence == "0 of 5,000 test pictures seen in training."
