"""`vlm evaluate`: any model on a run's data, its scores a run of their own that commands and gates know."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.context import RunContext
from components.download.config import DatasetConfig
from components.download.stage import run_download_dataset
from components.evaluate.config import EvaluateConfig, Gate
from components.evaluate.scores import Scores, read_scores
from components.evaluate.stage import run_evaluate
from components.export.config import ExportConfig
from components.export.stage import run_export
from components.generate.stage import run_generate
from components.published_model.config import PublishedModel
from components.published_model.stage import run_published_model
from components.runs.find import Places, find_run, find_stage
from components.runs.folder import CONFIG_NAME, CONTEXT_NAME, RunFolder
from components.storage.atomic import write_json
from components.tracking.client import connect
from pipelines.cli import main
from pipelines.preset_files import load_preset
from tests.support import published_models
from tests.support.chat_server import ChatServer
from tests.support.evaluation_world import finished_stage
from tests.support.export_world import Sources
from tests.support.hub_server import publish
from tests.support.web_server import web_server

OVERRIDES = [
    "data.scenes={pictures: 60, held_out_pictures: 12, side: 32, answer_form: text}",
    "evaluations.multiple_choice.generate={task: multiple_choice_text, max_new_tokens: 4, limit: 10}",
    "evaluations.captioning.generate={task: captioning, max_new_tokens: 4}",
    "evaluations.multiple_choice.evaluate={bootstrap_samples: 100, gates: [{minimum: 99}]}",
    "evaluations.captioning.evaluate={bootstrap_samples: 100}",
]


@dataclass(frozen=True)
class World:
    """A run that has trained, asked and exported a model; `published` is another model's folder."""

    context: RunContext
    raw: Path
    model: Path
    exported: Path
    published: Path

    @property
    def places(self) -> list[str]:
        workspace = self.context.workspace
        return ["--workspace", str(workspace), "--tracking-uri", f"sqlite:///{workspace}/mlflow.db"]

    def run(self, name: str) -> RunFolder:
        return find_run(name, Places(self.context.workspace)).here()

    def scores(self, name: str, evaluation: str) -> Scores:
        found = find_stage(find_run(name, Places(self.context.workspace)), f"evaluate/{evaluation}")
        assert found is not None
        assert found.folder is not None
        return read_scores(found.folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tracking_database: Path, small_meteor: None) -> World:
    folder = tmp_path_factory.mktemp("world")
    config = load_preset("laptop", OVERRIDES)
    sources = Sources(folder / "sources", language={"max_position_embeddings": 512})
    context = RunContext(run_id="trained-1", run_name="trained", workspace=folder / "workspace")
    run = RunFolder(context.workspace, context.run_id)
    context.workspace.mkdir()
    shutil.copy(tracking_database, context.workspace)
    run.update_record(name="trained", started="2026-01-01T00:00:00+00:00", state="succeeded")
    (run.path / CONFIG_NAME).write_text(yaml.safe_dump(config.model_dump(mode="json")))
    write_json(run.path / CONTEXT_NAME, context.model_dump(mode="json"))
    raw = run_download_dataset(context, DatasetConfig.model_validate(config.data.model_dump())).folder

    def copied(work: Any) -> dict[str, Any]:
        shutil.copytree(sources.model, work.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        return {}

    model = finished_stage(context, "sft", copied)
    for name in ("multiple_choice", "captioning"):
        asked = config.evaluations[name]
        generated = run_generate(context, asked.generate, model, raw, 0, name).folder
        run_evaluate(context, asked.evaluate, [generated], model, raw, name)
    exported = run_export(context, ExportConfig(verify=False), model).folder
    return World(context, raw, model, exported, published_models.llava(folder / "llava"))


@pytest.fixture
def hub(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    files = {path.name: path.read_bytes() for path in world.published.iterdir()}
    with web_server() as web:
        monkeypatch.setenv("HF_ENDPOINT", web.url)
        publish(web, "org/seer-7b", files, revisions=("main", "v1"))
        yield "org/seer-7b"


def test_a_model_of_the_hub_becomes_a_baseline(
    world: World, hub: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["evaluate", hub, "--data", "trained", *world.places]) == 0
    said = capsys.readouterr().out
    run = world.run(hub)
    assert run.state() == "succeeded"
    assert run.record()["stages"] == [
        f"{stage}/{name}" for name in ("captioning", "multiple_choice") for stage in ("generate", "evaluate")
    ]
    assert f"compare trained-1 {run.run_id}" in said
    scores = world.scores(hub, "multiple_choice")
    # Asked as the run's own model was, but judged by no gate that was meant for that one.
    own = world.scores("trained", "multiple_choice")
    assert (scores.n_scored, scores.prompt, scores.task_identity) == (10, own.prompt, own.task_identity)
    assert set(scores.controls) == set(own.controls)
    assert own.gates
    assert not scores.gates
    # In MLflow it is a run with a run for each stage.
    client = connect(f"sqlite:///{world.context.workspace}/mlflow.db")
    (tracked,) = client.search_runs(
        [item.experiment_id for item in client.search_experiments()], f"attributes.run_name = '{hub}'"
    )
    assert tracked.info.status == "FINISHED"
    assert tracked.data.metrics["evaluate.multiple_choice.accuracy"] == scores.metrics["accuracy"].value
    assert tracked.data.params["asked.name"] == hub
    # It compares with the run,
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "trained", hub, *world.places]) == 0
    said = capsys.readouterr().out
    assert "multiple_choice: values and differences" in said
    assert f"{hub} − trained" in said
    assert "can't be compared" not in said
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "evaluations.multiple_choice" in page
    assert "pretrain.recipe" not in page  # what only a training has is no difference
    # and is a gate's baseline, by the name that it has on the hub.
    gates = (Gate(baseline=hub, max_drop=1),)
    asked = load_preset("laptop", OVERRIDES).evaluations["multiple_choice"]
    config = EvaluateConfig(task="multiple_choice_text", gates=gates, gate_partial=True, bootstrap_samples=100)
    predictions = run_generate(world.context, asked.generate, world.model, world.raw, 0, "multiple_choice").folder
    output = run_evaluate(world.context, config, [predictions], world.model, world.raw, "multiple_choice")
    (gate,) = read_scores(output.folder).gates
    assert gate.difference is not None
    assert gate.difference.value == pytest.approx(own.metrics["accuracy"].value - scores.metrics["accuracy"].value)


@pytest.mark.parametrize("called", ["rival", "as published"])
def test_a_published_model_of_the_same_run_is_a_baseline(world: World, called: str) -> None:
    published = PublishedModel(source=world.published.as_uri())
    rival = run_published_model(world.context, published, "rival").folder
    asked = load_preset("laptop", OVERRIDES).evaluations["multiple_choice"]
    answers = run_generate(world.context, asked.generate, rival, world.raw, 0, "rival_choice").folder
    task = "multiple_choice_text"
    config = EvaluateConfig(task=task, bootstrap_samples=100)
    scored = run_evaluate(world.context, config, [answers], rival, world.raw, "rival_choice").folder
    gates = (Gate(baseline=published.name if called == "as published" else called),)
    judged = EvaluateConfig(task=task, gates=gates, gate_partial=True, bootstrap_samples=100)
    predictions = run_generate(world.context, asked.generate, world.model, world.raw, 0, "multiple_choice").folder
    output = run_evaluate(world.context, judged, [predictions], world.model, world.raw, "multiple_choice")
    scores = read_scores(output.folder)
    (gate,) = scores.gates
    assert gate.difference is not None
    other = read_scores(scored).metrics["accuracy"].value
    assert gate.difference.value == pytest.approx(scores.metrics["accuracy"].value - other)
    assert read_scores(scored).published == published.name
    assert not scores.published


def test_an_exported_folder_scores_as_its_checkpoint(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(world.exported), "--task", "captioning,multiple_choice_text", *world.places]) == 0
    run = capsys.readouterr().out.split()[1]
    for name in ("captioning", "multiple_choice"):
        assert world.scores(run, name).metrics == world.scores("trained", name).metrics
        assert world.scores(run, name).controls == world.scores("trained", name).controls


def test_a_runs_own_model_again_is_finished_work(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "trained", "--task", "captioning", "--name", "again", *world.places]
    assert main(arguments) == 0
    assert "generate/captioning: finished before, reused" in capsys.readouterr().out


def test_an_endpoint(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    server = ChatServer(lambda picture, text, most: ("A red circle.", 4, 30))
    try:
        assert (
            main(
                [
                    *("evaluate", "--endpoint", f"{server.url}/v1", "--model", "seer", "--task", "captioning"),
                    *("--data", str(world.raw), "--limit", "6", "--concurrency", "2", "--key-variable", "MY_KEY"),
                    *("--set", "evaluations.captioning.evaluate.bootstrap_samples=100", *world.places),
                ]
            )
            == 0
        )
    finally:
        server.close()
    said = capsys.readouterr().out
    name = f"seer at {server.url.removeprefix('http://')}"
    assert world.scores(name, "captioning").n_scored == 6
    assert "PARTIAL" in said
    assert server.state.most <= 2
    assert set(server.state.keys) == {"Bearer sk-secret"}
    assert "sk-secret" not in said
    settings = (world.run(name).path / CONFIG_NAME).read_text()
    assert server.url in settings
    assert "sk-secret" not in settings


def test_a_model_that_fails_leaves_a_failed_run(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(world.published, folder)
    (folder / "processor_config.json").unlink()
    assert main(["evaluate", str(folder), "--task", "captioning", *world.places]) == 1
    assert "transformers can't load" in capsys.readouterr().err
    run = world.run("broken")
    assert run.state() == "failed"
    assert "transformers can't load" in run.error()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Name one model"),
        (["org/seer", "--endpoint", "http://h/v1", "--model", "m"], "Name one model"),
        (["--endpoint", "http://h/v1"], "belong together"),
        (["--endpoint", "ftp://h/v1", "--model", "m"], "expected http://HOST/PATH"),
        (["no-such-run"], "There is no run 'no-such-run'"),
        (["trained", "--stage", "pretrain"], "has no finished stage pretrain"),
        (["trained", "--task", "no_such_task"], "There is no task 'no_such_task'"),
        (["trained", "--data", "x", "--preset", "laptop"], "not both"),
        (["trained", "--task", "captioning", "--set", "evaluations.other.generate.limit=1"], "other"),
    ],
)
def test_what_can_not_be_meant_is_refused_before_anything_runs(
    world: World, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in (world.context.workspace / "runs").iterdir())
    assert main(["evaluate", *arguments, *world.places]) == 1
    assert complaint in capsys.readouterr().err
    assert sorted(path.name for path in (world.context.workspace / "runs").iterdir()) == before


def test_a_folder_that_is_no_model_is_refused(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path), *world.places]) == 1
    assert "neither a run nor a model" in capsys.readouterr().err
