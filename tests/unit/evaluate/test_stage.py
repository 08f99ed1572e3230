import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.context import RunContext
from components.errors import StageError
from components.evaluate.config import EvaluateConfig, Gate
from components.evaluate.gates import enforce_gates
from components.evaluate.page import title_of
from components.evaluate.sample_scores import read_sample_scores
from components.evaluate.samples import read_samples
from components.evaluate.scores import read_scores
from components.evaluate.stage import run_evaluate
from components.generate.config import GenerateConfig
from components.metrics import java
from components.metrics.registry import OWN_METRICS
from components.metrics.right_or_wrong import ACCURACY
from components.metrics.tokenization import WORDS
from components.tracking.pipeline_run import open_pipeline_run
from pipelines.summary import score_table
from tests.support.evaluation_world import good_caption, good_choice, predictions, raw_dataset, stub_model
from tests.support.paths import ROOT

CHOICES = GenerateConfig(task="multiple_choice", partitions=3)
COUNT = 33

Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(run_id="t", run_name="t", workspace=tmp_path, git_commit="abc")


@pytest.fixture
def raw(context: RunContext) -> Path:
    return raw_dataset(context, COUNT)


@pytest.fixture
def model(context: RunContext) -> Path:
    return stub_model(context)


def test_multiple_choice_scores_hold_controls_intervals_and_provenance(
    context: RunContext, raw: Path, model: Path
) -> None:
    folders = predictions(context, CHOICES, model, raw, good_choice)
    output = run_evaluate(context, EvaluateConfig(task="multiple_choice", samples=6), folders[::-1], model, raw)
    scores = read_scores(output.folder)
    truth = [json.loads(line) for line in (raw / "multiple_choice.jsonl").read_text().splitlines()]
    assert (scores.n_expected, scores.n_scored, scores.n_dataset, scores.duplicates, scores.empties) == (
        COUNT,
        COUNT,
        COUNT,
        0,
        0,
    )
    assert set(scores.controls) == {"blank", "shuffled", "constant", "chance"} == set(scores.differences)
    own = scores.metrics["accuracy"]
    assert own.low is not None
    assert own.high is not None
    assert own.low < own.value < own.high
    most = max([row["answer"] for row in truth].count(letter) for letter in "ABCD")
    assert scores.controls["constant"]["accuracy"].value == pytest.approx(100 * most / COUNT, abs=1e-3)
    chance = sum(1 / len(row["options"]) for row in truth) / COUNT
    assert scores.controls["chance"]["accuracy"].value == pytest.approx(100 * chance, abs=1e-3)
    assert scores.controls["chance"]["accuracy"].low is None
    assert scores.unparsed["none"] == len([number for number in range(COUNT) if number % 11 == 5])
    assert {name: score.n for name, score in scores.categories.items()} == {"colour": 11, "shape": 11, "size": 11}
    difference = scores.differences["blank"]
    assert difference.value == pytest.approx(own.value - scores.controls["blank"]["accuracy"].value, abs=1e-3)
    assert difference.low is not None
    assert difference.low > 0
    assert (scores.git_commit, scores.prompt_version) == ("abc", "multiple_choice 2")
    assert scores.checkpoint.startswith("pretrain/")
    assert len(scores.checkpoint_files) == 16
    assert scores.task_identity.startswith("multiple_choice@2:")
    assert {"python", "numpy", "pycocoevalcap"} <= set(scores.versions["evaluate"])
    assert scores.partial == ""
    assert "PARTIAL" not in (output.folder / "evaluation.html").read_text()
    assert "depend on what is in the picture" in scores.meaning
    assert run_evaluate(context, EvaluateConfig(task="multiple_choice", samples=6), folders, model, raw).reused


def test_another_version_of_a_metric_scores_the_same_predictions_anew(
    context: RunContext, raw: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = predictions(context, CHOICES, model, raw, good_choice)
    config = EvaluateConfig(task="multiple_choice", samples=6)
    before = run_evaluate(context, config, folders, model, raw)
    monkeypatch.setitem(OWN_METRICS, "accuracy", replace(ACCURACY, version=2))  # type: ignore[index]
    after = run_evaluate(context, config, folders, model, raw)
    assert (after.reused, after.folder) != (True, before.folder)
    assert read_sample_scores(after.folder).problem("accuracy") == ""
    assert "of version 1" in read_sample_scores(before.folder).problem("accuracy")


def test_shown_samples_have_pictures_answers_and_truth(context: RunContext, raw: Path, model: Path) -> None:
    folders = predictions(context, CHOICES, model, raw, good_choice)
    output = run_evaluate(context, EvaluateConfig(task="multiple_choice", samples=6), folders, model, raw)
    shown = read_samples(output.folder).samples
    assert sorted(sample.category for sample in shown) == ["colour", "colour", "shape", "shape", "size", "size"]
    for sample in shown:
        assert (output.folder / sample.picture).is_file()
        assert set(sample.answers) == {"none", "blank", "shuffled"}
        own = sample.answers["none"]
        assert own.correct == (own.letter == sample.answer)
    page = (output.folder / "evaluation.html").read_text()
    assert page.count("<article") == 6


@pytest.fixture
def without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Java runs for one test."""
    monkeypatch.setattr(java, "find_java", lambda: None)


@pytest.mark.usefixtures("without_java")
def test_captioning_without_java_says_so_and_leaves_meteor_out(context: RunContext, raw: Path, model: Path) -> None:
    folders = predictions(context, GenerateConfig(task="captioning"), model, raw, good_caption)
    scores = read_scores(run_evaluate(context, EvaluateConfig(task="captioning"), folders, model, raw).folder)
    assert scores.tokenizer == WORDS
    assert "meteor" not in scores.metrics
    assert any("No Java" in note for note in scores.notes)
    assert scores.metrics["cider"].value > scores.controls["constant"]["cider"].value > 0


@pytest.mark.usefixtures("small_meteor")
def test_captioning_scores_ptb_tokens_with_every_metric(context: RunContext, raw: Path, model: Path) -> None:
    folders = predictions(context, GenerateConfig(task="captioning", partitions=2), model, raw, good_caption)
    output = run_evaluate(context, EvaluateConfig(task="captioning", bootstrap_samples=100), folders, model, raw)
    scores = read_scores(output.folder)
    assert scores.tokenizer == "ptb"
    assert list(scores.metrics) == ["cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "meteor"]
    assert set(scores.controls) == {"blank", "shuffled", "constant"}
    for values in (scores.metrics, *scores.controls.values()):
        for name, measure in values.items():
            assert measure.low is not None, name
            assert measure.high is not None, name
            assert measure.low - 1e-6 <= measure.value <= measure.high + 1e-6, name
    training = json.loads((raw / "pretrain.json").read_text())
    assert scores.constant in {entry["conversations"][1]["value"] for entry in training}
    sample = read_samples(output.folder).samples[0]
    assert len(sample.references) == 3
    assert sample.answers["none"].score is not None
    assert output.manifest.facts["cider"] == scores.metrics["cider"].value
    every = read_sample_scores(output.folder)
    assert every.ids == tuple(str(number) for number in range(COUNT))
    assert every.rows[0].truth == sample_references(raw, 0)
    for name, measure in scores.metrics.items():
        assert 100 * every.statistic(name).value() == pytest.approx(measure.value, abs=1e-3), name


def sample_references(raw: Path, image: int) -> tuple[str, ...]:
    annotations = json.loads((raw / "captioning.json").read_text())["annotations"]
    return tuple(entry["caption"] for entry in annotations if entry["image_id"] == image)


@pytest.mark.usefixtures("without_java")
def test_a_dataset_without_training_captions_has_no_constant_control_and_says_so(
    context: RunContext, raw: Path, model: Path
) -> None:
    (raw / "pretrain.json").unlink()
    folders = predictions(context, GenerateConfig(task="captioning"), model, raw, good_caption)
    scores = read_scores(run_evaluate(context, EvaluateConfig(task="captioning"), folders, model, raw).folder)
    assert set(scores.controls) == {"blank", "shuffled"}
    assert any("pretrain.json" in note for note in scores.notes)


def test_a_limited_generation_is_scored_against_its_part_and_says_so(
    context: RunContext, raw: Path, model: Path
) -> None:
    config = GenerateConfig(task="multiple_choice", limit=10, controls=("none",))
    folders = predictions(context, config, model, raw, good_choice)
    output = run_evaluate(context, EvaluateConfig(task="multiple_choice"), folders, model, raw)
    scores = read_scores(output.folder)
    assert (scores.n_expected, scores.n_scored, scores.n_dataset) == (10, 10, COUNT)
    assert scores.partial == "only the first 10 of 33 questions were asked"
    assert "the first of 33" in (output.folder / "evaluation.html").read_text()


def evaluate_changed(context: RunContext, raw: Path, model: Path, change: Change) -> None:
    folders = predictions(context, CHOICES, model, raw, good_choice, change=change)
    run_evaluate(context, EvaluateConfig(task="multiple_choice"), folders, model, raw)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda rows: [row for row in rows if row["id"] != "q-7"],
            r"missing: q-7 \(none, partition 1\), q-7 \(blank, partition 1\)",
        ),
        (
            lambda rows: [*rows, *[row for row in rows if row["id"] == "q-8"]],
            r"more than once: q-8 \(none, partition 2\)",
        ),
        (lambda rows: [*rows, {**rows[0], "id": "q-99"}], r"unknown: q-99 \(none, partition 0\)"),
        (lambda rows: [{**rows[0], "generation": "other"}, *rows[1:]], "another generation"),
        (lambda rows: [{"id": "q-0"}, *rows[1:]], "line 1 is not a prediction"),
    ],
    ids=["gap", "duplicate", "unknown", "foreign", "broken"],
)
def test_incomplete_predictions_are_refused(
    context: RunContext, raw: Path, model: Path, change: Change, complaint: str
) -> None:
    with pytest.raises(StageError, match=complaint):
        evaluate_changed(context, raw, model, change)


def test_a_sample_answered_by_two_partitions_is_refused(context: RunContext, raw: Path, model: Path) -> None:
    with pytest.raises(StageError, match="more than once"):
        evaluate_changed(context, raw, model, lambda rows: [*rows, {**rows[0], "id": "q-0"}])


@pytest.mark.parametrize(
    ("given_parts", "complaint"),
    [
        ([0, 2], "missing 1; there more than once none"),
        ([0, 1, 2, 1], "missing none; there more than once 1"),
        ([], "no predictions"),
    ],
)
def test_missing_and_repeated_partitions_are_refused(
    context: RunContext, raw: Path, model: Path, given_parts: list[int], complaint: str
) -> None:
    folders = predictions(context, CHOICES, model, raw, good_choice)
    with pytest.raises(StageError, match=complaint):
        run_evaluate(
            context, EvaluateConfig(task="multiple_choice"), [folders[part] for part in given_parts], model, raw
        )


def test_partitions_of_different_generations_are_refused(context: RunContext, raw: Path, model: Path) -> None:
    first = predictions(context, CHOICES, model, raw, good_choice)
    second = predictions(context, CHOICES.model_copy(update={"seed": 9}), model, raw, good_choice)
    with pytest.raises(StageError, match="other settings"):
        run_evaluate(context, EvaluateConfig(task="multiple_choice"), [*first[:2], second[2]], model, raw)


def test_predictions_of_another_model_or_task_are_refused(context: RunContext, raw: Path, model: Path) -> None:
    folders = predictions(context, CHOICES, model, raw, good_choice)
    other = stub_model(context, stage="sft")
    with pytest.raises(StageError, match="predictions for model"):
        run_evaluate(context, EvaluateConfig(task="multiple_choice"), folders, other, raw)
    with pytest.raises(StageError, match="predictions for task"):
        run_evaluate(context, EvaluateConfig(task="captioning"), folders, model, raw)


def test_a_truncated_file_is_refused(context: RunContext, raw: Path, model: Path) -> None:
    folders = predictions(context, CHOICES, model, raw, good_choice)
    path = folders[1] / "predictions.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    for allow in (False, True):
        with pytest.raises(
            StageError, match=r"predictions\.jsonl has \d+ bytes, its manifest says \d+: it was cut off"
        ):
            run_evaluate(context, EvaluateConfig(task="multiple_choice", allow_partial=allow), folders, model, raw)


def test_another_dataset_and_a_changed_one_are_refused(context: RunContext, raw: Path, model: Path) -> None:
    folders = predictions(context, CHOICES, model, raw, good_choice)
    with pytest.raises(StageError, match="predictions for raw"):
        run_evaluate(
            context, EvaluateConfig(task="multiple_choice"), folders, model, raw_dataset(context, COUNT, seed=1)
        )
    path = raw / "multiple_choice.jsonl"
    path.write_text(path.read_text().replace('"answer": "A"', '"answer": "B"'))
    with pytest.raises(StageError, match="not the ground truth that the predictions were generated for"):
        run_evaluate(context, EvaluateConfig(task="multiple_choice"), folders, model, raw)


PARTIAL = EvaluateConfig(task="multiple_choice", allow_partial=True, gates=(Gate(minimum=1),))


@pytest.mark.parametrize(
    ("change", "parts", "why", "scored", "missing"),
    [
        (
            lambda rows: [row for row in rows if (row["id"], row["control"]) != ("q-7", "blank")],
            (0, 1, 2),
            "1 of 33 questions are not scored",
            32,
            ["q-7 (blank, partition 1)"],
        ),
        (
            lambda rows: [*rows, *[{**row, "text": "other"} for row in rows if row["id"] == "q-8"]],
            (0, 1, 2),
            "3 repeated answers were left out",
            33,
            [],
        ),
        (lambda rows: rows, (2, 0), "11 of 33 questions are not scored", 22, None),
        (lambda rows: rows, (0, 1, 1, 2), "33 repeated answers were left out", 33, []),
    ],
    ids=["gap", "duplicate", "partition missing", "partition twice"],
)
def test_a_partial_score_needs_leave_and_says_so_everywhere(
    context: RunContext,
    raw: Path,
    model: Path,
    change: Change,
    parts: tuple[int, ...],
    why: str,
    scored: int,
    missing: list[str] | None,
) -> None:
    folders = predictions(context, CHOICES, model, raw, good_choice, change=change)
    given_folders = [folders[part] for part in parts]
    with pytest.raises(StageError):
        run_evaluate(context, EvaluateConfig(task="multiple_choice"), given_folders, model, raw)
    output = run_evaluate(context, PARTIAL, given_folders, model, raw)
    scores = read_scores(output.folder)
    assert scores.partial == why == output.manifest.facts["partial"]
    assert missing is None or scores.missing == missing
    assert (scores.n_expected, scores.n_scored) == (COUNT, scored)
    assert scores.meaning.startswith("PARTIAL (")
    assert all("PARTIAL" in name for name in scores.kfp_metrics() if "accuracy" in name)
    assert (
        f"PARTIAL</span> Not the score of the whole ground truth: {why}"
        in (output.folder / "evaluation.html").read_text()
    )
    assert "PARTIAL" in title_of(scores)
    assert f"PARTIAL: {why}" in str(score_table(json.loads((output.folder / "scores.json").read_text())).title)
    assert [gate.passed for gate in scores.gates] == [False]
    with pytest.raises(StageError, match="on a partial score"):
        enforce_gates([output.folder])
    told = run_evaluate(context, PARTIAL.model_copy(update={"gate_partial": True}), given_folders, model, raw)
    enforce_gates([told.folder])


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: [*rows, {**rows[0], "id": "q-99"}],
        lambda rows: [{**rows[0], "generation": "other"}, *rows[1:]],
        lambda rows: [{"id": "q-0"}, *rows[1:]],
        lambda rows: [],
    ],
    ids=["unknown", "foreign", "broken", "nothing"],
)
def test_what_does_not_belong_here_is_refused_even_where_gaps_are_allowed(
    context: RunContext, raw: Path, model: Path, change: Change
) -> None:
    folders = predictions(context, CHOICES, model, raw, good_choice, change=change)
    with pytest.raises(StageError):
        run_evaluate(context, PARTIAL, folders, model, raw)


def test_mlflow_says_that_a_score_is_partial(tracking_database: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    shutil.copy(tracking_database, tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run_id = open_pipeline_run(uri, "e", "t", "t", tmp_path, {})
    context = RunContext(
        run_id="t", run_name="t", workspace=tmp_path, tracking_uri=uri, experiment="e", mlflow_run_id=run_id
    )
    raw, model = raw_dataset(context, COUNT), stub_model(context)
    folders = predictions(context, CHOICES, model, raw, good_choice)
    for _ in range(2):  # the second one is reused
        run_evaluate(context, PARTIAL, folders[:2], model, raw)
    client = MlflowClient(uri)
    tags = client.get_run(run_id).data.tags
    assert tags["vlm.partial.evaluate.multiple_choice"] == "11 of 33 questions are not scored"


@pytest.mark.parametrize(
    ("gate", "passes"),
    [
        (Gate(minimum=50), True),
        (Gate(minimum=99), False),
        (Gate(margin=10), True),
        (Gate(minimum=50, margin=90), False),
        (Gate(metric="accuracy", minimum=99, action="warn"), True),
    ],
)
def test_gates_are_judged_in_points_and_enforced_last(
    context: RunContext, raw: Path, model: Path, gate: Gate, passes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = predictions(context, CHOICES, model, raw, good_choice)
    output = run_evaluate(context, EvaluateConfig(task="multiple_choice", gates=(gate,)), folders, model, raw)
    if passes:
        enforce_gates([output.folder])
        assert ("WARNING" in capsys.readouterr().out) == (gate.action == "warn")
    else:
        with pytest.raises(StageError, match=r"Accuracy at least .* NOT PASSED with"):
            enforce_gates([output.folder])


def test_a_gate_on_another_metric_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="'cider' is not a metric of the task multiple_choice, which has accuracy"):
        EvaluateConfig(task="multiple_choice", gates=(Gate(metric="cider", minimum=1),))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"minimum": 0.5}, "write 50"),
        ({}, "a minimum, a margin or a baseline"),
    ],
)
def test_gates_that_can_not_be_meant_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Gate.model_validate(settings)


def test_reusing_stages_loads_no_heavy_library() -> None:
    code = (
        "import sys; import components.generate.stage, components.evaluate.stage, components.report.stage; "
        "print([name for name in ('torch', 'megatron', 'numpy', 'matplotlib', 'PIL') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"
