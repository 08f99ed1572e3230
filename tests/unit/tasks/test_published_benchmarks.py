"""Every benchmark from small data in its own layout to scores with controls: download, stand-in predictions, evaluation."""

from pathlib import Path

import pytest

from components.context import RunContext
from components.download.config import DatasetConfig
from components.download.stage import run_download_dataset
from components.evaluate.config import EvaluateConfig
from components.evaluate.scores import Scores, read_scores
from components.evaluate.stage import run_evaluate
from components.generate.config import GenerateConfig
from components.generate.stage import run_generate
from components.metrics import java
from components.tasks.loading import load_samples, load_task
from components.tasks.sample import HeldOutSample
from tests.support.evaluation_world import predictions, stub_model
from tests.support.model_world import World, build_world
from tests.support.published_benchmarks import TABLES, publish_tables, training

TASKS = (*TABLES, "mmbench_circular", "textvqa_ocr")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return RunContext(run_id="t", run_name="t", workspace=tmp_path_factory.mktemp("workspace"), git_commit="abc")


@pytest.fixture(scope="module")
def raw(context: RunContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    config = {
        "source": "named://",
        "pretrain": training(folder),
        "evaluation": {"benchmarks": publish_tables(folder / "hub")},
    }
    return run_download_dataset(context, DatasetConfig.model_validate(config)).folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    # The test tokenizer makes a token of nearly every letter.
    return build_world(tmp_path_factory.mktemp("world"), max_position_embeddings=512)


def truth(sample: HeldOutSample) -> str:
    """Return an answer that is right."""
    return sample.answer or sample.references[0]


def evaluated(context: RunContext, raw: Path, task: str, right: set[str]) -> Scores:
    """Score a model that answers the named samples rightly where it sees a picture, and else says what is never right."""
    found = load_samples(raw, load_task(task))
    pictures = [sample.image for sample in found]
    shuffles = all(2 * pictures.count(picture) <= len(pictures) for picture in pictures)
    config = GenerateConfig(task=task, controls=("none", "blank", "shuffled") if shuffles else ("none", "blank"))

    def answer(sample: HeldOutSample, picture: str) -> str:
        wrong = {"yes": "no", "no": "yes"}.get(sample.references[0] if sample.references else "", "zzz")
        return truth(sample) if picture and sample.id in right else wrong

    model = stub_model(context, answers=f"{task} {sorted(right)}")
    folders = predictions(context, config, model, raw, answer)
    return read_scores(run_evaluate(context, EvaluateConfig(task=task, samples=2), folders, model, raw).folder)


@pytest.mark.parametrize("task", TASKS)
def test_a_benchmark_is_scored_beside_its_controls(
    context: RunContext, raw: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "find_java", lambda: None)  # METEOR starts slowly and is tested elsewhere
    samples = load_samples(raw, load_task(task))
    scores = evaluated(context, raw, task, {sample.id for sample in samples})
    assert (scores.n_scored, scores.n_expected, scores.partial) == (len(samples), len(samples), "")
    headline = scores.metrics[scores.headline]
    best = {"mme": 2800.0}.get(task, 100.0)
    if scores.kind == "captioning":
        assert headline.value > scores.controls["blank"]["cider"].value
    else:
        assert headline.value == pytest.approx(best)
        assert scores.controls["blank"][scores.headline].value == pytest.approx(0)
        assert "constant" in scores.controls
        assert scores.constant
    if task == "mme":  # a resample of one picture for each subtask lacks subtasks, and their points
        assert headline.low is None
        assert "too few for an interval" in scores.meaning
        assert "not reliably above" in scores.meaning
        return
    assert headline.low is not None
    assert headline.high is not None
    assert headline.low <= headline.value <= headline.high
    assert set(scores.metrics) == set(load_task(task).metrics) - {"meteor"}


@pytest.mark.parametrize("task", ["pope", "mme", "mmbench_circular", "textvqa_ocr", "nocaps", "mmmu_pro"])
def test_a_small_model_answers_what_is_asked(
    world: World, raw: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "find_java", lambda: None)
    config = GenerateConfig(task=task, max_new_tokens=3, controls=("none", "blank"))
    generated = run_generate(world.context, config, world.model, raw, 0).folder
    folder = run_evaluate(world.context, EvaluateConfig(task=task, samples=1), [generated], world.model, raw).folder
    scores = read_scores(folder)
    assert (scores.n_scored, scores.partial) == (len(load_samples(raw, load_task(task))), "")
    assert {"blank", "constant"} <= set(scores.controls)


def test_pope_counts_yes_and_takes_the_mean_of_its_splits(context: RunContext, raw: Path) -> None:
    samples = load_samples(raw, load_task("pope"))
    right = {sample.id for sample in samples if sample.category != "random" or sample.references == ("no",)}
    scores = evaluated(context, raw, "pope", right)
    values = {name: measure.value for name, measure in scores.metrics.items()}
    # Of the two true yes of each split the random one's are missed: F1 is 1, 1 and 0; of all answers 2 of 12 are wrong.
    assert values == pytest.approx(
        {
            "macro_f1": 200 / 3,
            "f1": 80,
            "accuracy": 1000 / 12,
            "precision": 100,
            "recall": 400 / 6,
            "yes_ratio": 400 / 12,
        },
        abs=1e-3,
    )
    assert {name: score.value for name, score in scores.categories.items()} == {
        "adversarial": 100,
        "popular": 100,
        "random": 0,
    }


def test_mme_sums_accuracy_and_accuracy_of_pictures(context: RunContext, raw: Path) -> None:
    samples = load_samples(raw, load_task("mme"))
    missed = next(sample.id for sample in samples if sample.category == "OCR")
    also = {sample.id for sample in samples if sample.category == "code_reasoning"}
    scores = evaluated(context, raw, "mme", {sample.id for sample in samples} - {missed} - also)
    values = {name: measure.value for name, measure in scores.metrics.items()}
    assert values["mme_perception"] == pytest.approx(9 * 200 + 50)
    assert values["mme_cognition"] == pytest.approx(3 * 200)
    assert values["mme_total"] == pytest.approx(9 * 200 + 50 + 3 * 200)
    assert values["group_accuracy"] == pytest.approx(100 * 12 / 14, abs=1e-3)
    by_name = {name: score.value for name, score in scores.categories.items()}
    assert (
        by_name["OCR"],
        by_name["code reasoning"] if "code reasoning" in by_name else by_name["code_reasoning"],
    ) == (50, 0)
    assert (by_name["Perception"], by_name["Cognition"]) == (pytest.approx(1850), pytest.approx(600))


def test_circular_questions_count_only_where_all_rotations_are_right(context: RunContext, raw: Path) -> None:
    samples = load_samples(raw, load_task("mmbench_circular"))
    scores = evaluated(context, raw, "mmbench_circular", {sample.id for sample in samples[:-1]})
    assert scores.metrics["group_accuracy"].value == 50
    assert scores.metrics["accuracy"].value == pytest.approx(100 * 4 / 5)
    assert {score.level for score in scores.categories.values()} == {"kind of question", "ability"}


def test_breakdowns_are_those_of_the_benchmarks(context: RunContext, raw: Path) -> None:
    levels = {
        "chartqa": {"split"},
        "docvqa": {"kind of question"},
        "gqa": {"kind of question"},
        "scienceqa": {"subject", "grade"},
    }
    levels |= {
        "seedbench": {"kind of question"},
        "ocrbench": {"kind of task"},
        "mmmu_pro": {"discipline", "subject"},
        "realworldqa": {"form"},
    }
    for task, expected in levels.items():
        scores = evaluated(context, raw, task, set())
        assert {score.level for score in scores.categories.values()} == expected, task
