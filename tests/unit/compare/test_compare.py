"""The comparison of runs: from folders, from MLflow alone, as a page in a real browser."""

import datetime
import io
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from components.compare.comparison import Comparison, compare
from components.compare.page import render_comparison
from components.compare.runs import Evaluation, load_runs
from components.compare.table import tables
from components.context import RunContext
from components.errors import InputError
from components.evaluate.config import EvaluateConfig
from components.evaluate.scores import PublishedFigure
from components.evaluate.stage import run_evaluate
from components.generate.config import GenerateConfig
from components.metrics.registry import OWN_METRICS
from components.metrics.right_or_wrong import ACCURACY
from components.runs.find import Places
from components.runs.folder import RunFolder
from components.stage.runner import StageWork
from components.storage.atomic import write_json, write_text
from components.tasks.sample import HeldOutSample
from components.tracking.client import connect
from components.tracking.pipeline_run import close_pipeline_run, open_pipeline_run
from components.tracking.registry import RegistryConfig, register
from pipelines.cli import main
from tests.support.browser import Browser, find_chromium
from tests.support.evaluation_world import finished_stage, good_choice, predictions, raw_dataset
from tests.support.html_pages import HOSTILE, parsed
from tests.support.mlflow_server import MlflowServer, running

COUNT = 40
Answer = Callable[[HeldOutSample, str], str]


@dataclass(frozen=True)
class World:
    """A workspace with an MLflow store of its own and runs that were tracked in it."""

    workspace: Path
    uri: str

    def run(self, name: str, answer: Answer, rate: float, seed: int = 0) -> RunContext:
        """Run a training and an evaluation the way a pipeline does."""
        run_id = f"{name}-1"
        settings = {
            "name": name,
            "seed": 1,
            "pretrain": {"recipe": {"learning_rate": rate}},
            "gates": [{"minimum": rate}],
        }
        mlflow_run_id = open_pipeline_run(
            self.uri, "compare", name, run_id, self.workspace, settings, "0123456789abcdef"
        )
        context = RunContext(
            run_id=run_id,
            run_name=name,
            workspace=self.workspace,
            tracking_uri=self.uri,
            experiment="compare",
            mlflow_run_id=mlflow_run_id,
            git_commit="0123456789abcdef",
        )
        folder = self.workspace / "runs" / run_id
        now = datetime.datetime.now(datetime.UTC).isoformat()
        RunFolder(self.workspace, run_id).update_record(name=name, started=now, state="succeeded")
        write_text(folder / "config.yaml", yaml.safe_dump(settings))
        write_json(folder / "context.json", context.model_dump(mode="json"))
        raw = raw_dataset(context, COUNT, seed=seed, side=48)
        model = finished_stage(context, "pretrain", lambda work: _train(work, rate), {"raw": raw}, learning_rate=rate)
        texts = predictions(context, GenerateConfig(task="multiple_choice"), model, raw, answer)
        run_evaluate(context, EvaluateConfig(task="multiple_choice", samples=4), texts, model, raw)
        close_pipeline_run(self.uri, mlflow_run_id, "FINISHED")
        return context

    @property
    def places(self) -> Places:
        return Places(self.workspace, self.uri)

    def compared(self, *references: str) -> Comparison:
        return compare(load_runs(references, self.places), samples=8)


def _train(work: StageWork, rate: float) -> dict[str, Any]:
    rows = [{"step": step, "loss": 5 * math.exp(-step * rate * 50), "learning_rate": rate} for step in range(1, 61)]
    rows += [{"step": 60, "validation_loss": 1.5}]
    for row in rows:
        work.tracker.log_metrics({key: value for key, value in row.items() if key != "step"}, step=int(row["step"]))
    (work.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"median_samples_per_s": 1000 * rate, "median_tokens_per_s": 30_000.0}


def hostile(sample: HeldOutSample, picture: str) -> str:
    """Write nothing but an attack for every second question."""
    return HOSTILE if int(sample.id.split("-")[1]) % 2 else good_choice(sample, picture)


@pytest.fixture(scope="module")
def world(tracking_database: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    workspace = tmp_path_factory.mktemp("compare")
    shutil.copy(tracking_database, workspace)
    world = World(workspace, f"sqlite:///{workspace}/mlflow.db")
    world.run("first", good_choice, 1e-3)
    world.run("second", hostile, 5e-4)
    world.run("elsewhere", good_choice, 1e-3, seed=9)
    return world


@pytest.fixture(scope="module")
def comparison(world: World) -> Comparison:
    return world.compared("first", "second")


@pytest.fixture(scope="module")
def page(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "comparison.html"
    path.write_text(render_comparison(comparison), encoding="utf-8")
    return path


def rights(world: World, run: str) -> dict[str, bool]:
    """Return which questions a run has right, from the evaluation's own account."""
    (evaluation,) = world.compared(run, "elsewhere").runs[0].evaluations.values()
    assert evaluation.samples is not None
    return {row.id: row.statistics["accuracy@1"] == (1, 1) for row in evaluation.samples.rows}


def test_settings_scores_and_samples_that_differ(world: World, comparison: Comparison) -> None:
    assert comparison.settings == {
        "pretrain.recipe.learning_rate": ["0.001", "0.0005"],
        "gates.0.minimum": ["0.001", "0.0005"],
    }
    (task,) = comparison.tasks
    first, second = rights(world, "first"), rights(world, "second")
    expected = {sample for sample in first if first[sample] != second[sample]}
    assert task.disagreeing == len(expected)
    assert len(task.disagreements) == min(8, len(expected))
    assert {item.id for item in task.disagreements} <= expected
    test = task.pairs[1].tests["accuracy"]
    assert test.value == pytest.approx(100 * (sum(second.values()) - sum(first.values())) / COUNT, abs=1e-3)
    for item in task.disagreements:
        assert [value == 100 for _, value in item.answers.values()] == [first[item.id], second[item.id]]


def test_the_page_is_well_formed_and_shows_every_part(page: Path) -> None:
    shown = parsed(page.read_text())
    for text in (
        "first and second", "0123456789ab", "Settings that differ", "learning_rate", "exact McNemar test", "second − first",
        "Blank picture", "Best constant answer", "By category", "colour (", "Where they disagree", "✓ right", "✗ wrong",
        "Loss per answer token", "tokens per second", "one result",
    ):  # fmt: skip
        assert text in shown.text, text
    tags = [tag for tag, _ in shown.tags]
    assert tags.count("article") == tags.count("img") == 8
    assert tags.count("svg") == 4
    assert HOSTILE in shown.text
    assert not {"script", "iframe", "link", "object"} & set(tags)
    assert not any(name.startswith("on") for _, attributes in shown.tags for name in attributes)
    assert not re.findall(r"https?://|@import|url\(", page.read_text())


def test_published_figures_of_known_models_stand_beside_the_runs(comparison: Comparison) -> None:
    (task,) = comparison.tasks
    figure = PublishedFigure(
        model="LLaVA-1.5-7B", metric="accuracy", value=66.8, source="its model zoo", note="test split"
    )

    def known(evaluation: Evaluation) -> Evaluation:
        shown = evaluation.scores.presentation.model_copy(update={"published": (figure,)})
        return replace(evaluation, scores=evaluation.scores.model_copy(update={"presentation": shown}))

    evaluations = {number: known(evaluation) for number, evaluation in task.evaluations.items()}
    two = [replace(task, name=name, evaluations=evaluations) for name in ("one", "other")]
    shown = parsed(render_comparison(replace(comparison, tasks=two))).text
    for text in (
        "LLaVA-1.5-7B, test split, as published",
        "All scores in one table",
        "66.8*",
        "its model zoo",
        "\\toprule",
    ):
        assert text in shown, text


def test_a_run_without_its_workspace_is_read_from_mlflow(world: World, comparison: Comparison, tmp_path: Path) -> None:
    for folder in ("runs", "evaluate", "pretrain"):
        shutil.move(world.workspace / folder, tmp_path / folder)
    try:
        alone = world.compared("first", "second")
        page = parsed(render_comparison(alone)).text
    finally:
        for folder in ("runs", "evaluate", "pretrain"):
            shutil.rmtree(world.workspace / folder, ignore_errors=True)
            shutil.move(tmp_path / folder, world.workspace / folder)
    assert alone.settings == comparison.settings
    assert alone.tasks[0].pairs == comparison.tasks[0].pairs
    assert alone.tasks[0].disagreements == comparison.tasks[0].disagreements
    assert alone.runs[0].curves["pretrain"]["loss"] == comparison.runs[0].curves["pretrain"]["loss"]
    assert "what is shown comes from MLflow" in page
    assert "samples are shown without their pictures" in page


def test_what_is_gone_is_said(world: World) -> None:
    """Neither workspace nor MLflow has the samples any more; the second run never came to its evaluation."""
    context = RunContext(run_id="broken-1", run_name="broken", workspace=world.workspace)
    write_json(world.workspace / "runs" / "broken-1" / "context.json", context.model_dump(mode="json"))
    write_json(
        world.workspace / "runs" / "broken-1" / "progress" / "pretrain-00.json",
        {"stage": "pretrain", "state": "failed"},
    )
    page = parsed(render_comparison(world.compared("broken", "first"))).text
    for text in ("pretrain: it did not finish (failed)", "config.yaml is gone", "broken does not have this evaluation"):
        assert text in page, text


def test_another_dataset_is_not_compared(world: World) -> None:
    comparison = world.compared("first", "elsewhere")
    (task,) = comparison.tasks
    assert "ground truth (SHA-256) differs" in task.pairs[1].problem
    assert (task.pairs[1].tests, task.disagreeing) == ({}, 0)
    page = parsed(render_comparison(comparison)).text
    assert "can't be compared" in page
    assert "Where they disagree" not in page


def test_a_metric_of_another_version_is_not_compared_and_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OWN_METRICS, "accuracy", replace(ACCURACY, version=7))  # type: ignore[index]
    comparison = world.compared("first", "second")
    (task,) = comparison.tasks
    assert (task.pairs[1].tests, task.pairs[1].problem, task.disagreeing) == ({}, "", 0)
    complaint = "its accuracy is of version 1 of the metric, this code has version 7: evaluate it again"
    assert task.pairs[1].refused == {"accuracy": complaint}
    assert complaint in parsed(render_comparison(comparison)).text
    console = Console(file=io.StringIO(), width=300)
    for table in tables(comparison):
        console.print(table)
    assert f"can't be compared: {complaint}" in console.file.getvalue()  # type: ignore[attr-defined]


def test_samples_of_an_older_layout_are_named_and_the_scores_still_shown(world: World) -> None:
    (path,) = world.workspace.glob(f"evaluate/multiple_choice/{key_of(world, 'second')}/sample_scores.jsonl")
    kept = path.read_text()
    try:
        path.write_text('{"id": "q-0", "image": "a.jpg", "text": "A", "scores": {"accuracy": 1.0}}\n')
        comparison = world.compared("first", "second")
    finally:
        path.write_text(kept)
    (task,) = comparison.tasks
    assert task.pairs[1].problem == "the samples' scores are not here"
    assert task.evaluations[1].scores.metrics["accuracy"].value > 0
    assert any(
        "as this version writes them (statistics: Field required)" in text for text in comparison.runs[1].missing
    )


def key_of(world: World, run: str) -> str:
    return world.compared(run, "elsewhere").runs[0].stages["evaluate/multiple_choice"].key


def test_a_run_is_named_by_id_name_folder_or_mlflow_run(world: World) -> None:
    context = json.loads((world.workspace / "runs" / "first-1" / "context.json").read_text())
    for reference in ("first-1", "first", str(world.workspace / "runs" / "first-1"), context["mlflow_run_id"]):
        assert load_runs([reference, "second"], world.places)[0].run_id == "first-1"
    with pytest.raises(InputError, match=r"no run 'third'.*newest first: .*first-1.*none in MLflow at sqlite.*first"):
        world.compared("first", "third")
    with pytest.raises(InputError, match="'first' and 'first-1' are the same run"):
        world.compared("first", "first-1")


def test_names_of_runs_are_no_markup_of_the_terminal(comparison: Comparison) -> None:
    console = Console(file=io.StringIO(), width=200)
    for table in tables(replace(comparison, labels=["night [/x]", "[red]"])):
        console.print(table)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red] − night [/x]" in printed


def test_the_command_prints_tables_and_keeps_the_page(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "page.html"
    arguments = ["compare", "first", "second", "--workspace", str(world.workspace), "-o", str(output), "--log"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for text in ("second − first", "Accuracy", "learning_rate", "p ", str(output)):
        assert text in printed, text
    assert output.read_text().startswith("<!doctype html>")
    newest = json.loads((world.workspace / "runs" / "second-1" / "context.json").read_text())["mlflow_run_id"]
    assert [item.path for item in connect(world.uri).list_artifacts(newest, "comparisons")] == ["comparisons/page.html"]
    assert main(["compare", "first", "--workspace", str(world.workspace)]) == 1
    assert "two runs or more" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here (apt-get install chromium): pages are not looked at in a browser")
    with Browser(program) as browser:
        yield browser


def test_the_page_in_a_browser(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.open(page.as_uri())
    browser.wait_for("document.readyState == 'complete' && document.images.length == 8")
    browser.wait_for("[...document.images].slice(0, 3).every(image => image.naturalWidth > 0)")
    visible = "[...document.querySelectorAll('.pair')].filter(card => card.offsetParent !== null).length"
    kept = "[...document.querySelectorAll('.pair.c1')].length"
    assert browser.evaluate(visible) == 8
    browser.evaluate("document.querySelector('label[for$=\"-c1\"]').click()")
    assert 0 < browser.evaluate(visible) == browser.evaluate(kept) < 8
    assert browser.evaluate("document.querySelector('.mark circle').getBoundingClientRect().width") > 4
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.errors == []
    browser.screenshot(tmp_path / "page.png")
    assert _colours(tmp_path / "page.png") > 50


@pytest.mark.slow
def test_mlflows_own_comparison_in_a_browser(browser: Browser, world: World, tmp_path: Path) -> None:
    client = connect(world.uri)
    runs = [load_runs([name, "elsewhere"], world.places)[0].mlflow_run_id for name in ("first", "second")]
    experiment = client.get_experiment_by_name("compare").experiment_id
    with running(MlflowServer(tmp_path, database=world.uri)) as address:
        browser.open(f"{address}/#/compare-runs?runs={json.dumps(runs)}&experiments={json.dumps([experiment])}")
        browser.wait_for("document.body && document.body.innerText.includes('Comparing 2 Runs')")
        browser.wait_for("document.body.innerText.includes('pretrain.recipe.learning_rate')")
        text = browser.text()
        # A server refuses versions that point at files of its clients under that name.
        version = register(address, RegistryConfig(name="served"), tmp_path, "export/00", runs[0], {}, "for people")
        assert version == "1"
    for expected in ("first", "second", "0.0005", "evaluate.multiple_choice.accuracy"):
        assert expected in text, expected
    assert [error for error in browser.errors if "Failed to load resource" not in error] == []


def _colours(path: Path) -> int:
    from PIL import Image

    return len(Image.open(path).convert("RGB").getcolors(1 << 24) or [])
