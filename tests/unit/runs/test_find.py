"""One meaning of a reference: every command finds the same run, in the workspace, in MLflow, on a cluster."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.context import RunContext
from components.errors import ConfigurationError, InputError, StageError
from components.evaluate.baseline import find_baselines
from components.evaluate.config import Gate
from components.export import stage as export_stage
from components.runs.find import Places, find_run, find_stage
from components.runs.folder import RunFolder
from components.runs.kfp import KfpRuns
from components.runs.mlflow import stage_runs
from components.tracking.client import connect
from components.tracking.pipeline_run import open_pipeline_run
from pipelines.cli import main
from tests.support.kfp_server import KfpServer, recorded_run, recorded_specification
from tests.support.runs_world import RunsWorld

OLD, NEW, LATER, QUIET = "night-20260101-000000", "night-20260102-000000", "night-2-20260103-000000", "quiet-1"
AWAY, STRANGER, FAILED = "8c6f2d11-away", "stranger-1", "flaky-20260105-000000"
GOOD = "flaky-20260104-000000"
# In no run's name and in every world: what the others are compared with.
OTHER = "the other-1"


@pytest.fixture(scope="module")
def world(tracking_uri: str, tracking_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> RunsWorld:
    """Runs that share names and beginnings; the one that started last is neither the last one written nor the last id."""
    world = RunsWorld(tmp_path_factory.mktemp("runs") / "workspace", tracking_uri, tracking_workspace)
    world.run(LATER, "night-2", 3)
    world.run(NEW, "night", 2)
    old = world.run(OLD, "night", 1)
    world.run(GOOD, "flaky", 4)
    world.run(FAILED, "flaky", 5, state="failed")
    world.run(QUIET, "quiet", 1, tracked=False)
    world.run(OTHER, "the other", 1, tracked=False)
    world.only_tracked(STRANGER, "night", 9)
    world.only_tracked(AWAY, "away", 8)
    client = connect(tracking_uri)
    client.create_registered_model("runs")
    version = client.create_model_version("runs", "file:///models/old", run_id=old.mlflow_run_id).version
    client.set_registered_model_alias("runs", "champion", version)
    return world


def mlflow_run_of(world: RunsWorld, run_id: str, kind: str = "pipeline") -> str:
    client = connect(world.uri)
    experiment = client.get_experiment_by_name("runs").experiment_id
    runs = client.search_runs([experiment], f"tags.`vlm.run_id` = '{run_id}' and tags.`vlm.kind` = '{kind}'")
    return str(runs[0].info.run_id)


REFERENCES: dict[str, tuple[Callable[[RunsWorld], str], str]] = {
    "folder": (lambda world: str(world.workspace / "runs" / OLD), OLD),
    "id": (lambda world: OLD, OLD),
    "name, newest of two": (lambda world: "night", NEW),
    "name, beginning of other ids": (lambda world: "night-2", LATER),
    "beginning, newest of two": (lambda world: "night-2026", NEW),
    "beginning, newest of three": (lambda world: "nigh", LATER),
    "not tracked": (lambda world: "quiet", QUIET),
    "MLflow run": (lambda world: mlflow_run_of(world, OLD), OLD),
    "MLflow run of a stage": (lambda world: mlflow_run_of(world, OLD, "stage"), OLD),
    "registered model": (lambda world: "models:/runs@champion", OLD),
    "version of a registered model": (lambda world: "models:/runs/1", OLD),
    "id, only in MLflow": (lambda world: AWAY, AWAY),
    "name, only in MLflow": (lambda world: "away", AWAY),
    "beginning, only in MLflow": (lambda world: "8c6f", AWAY),
    "MLflow run, only in MLflow": (lambda world: mlflow_run_of(world, AWAY), AWAY),
}


@pytest.fixture(params=REFERENCES)
def reference(request: pytest.FixtureRequest, world: RunsWorld) -> tuple[str, str]:
    name, expected = REFERENCES[request.param]
    return name(world), expected


class Command:
    """Runs a command on a reference and tells which run it took."""

    def __init__(self, world: RunsWorld, captured: pytest.CaptureFixture[str]) -> None:
        self._world = world
        self._captured = captured

    def run_of(self, name: str, *arguments: str, folder: Path | None = None) -> str:
        """Return the id of the run that a command speaks of, in its output, its error, or a file below a stage folder."""
        status = main([name, *arguments, "--workspace", str(self._world.workspace), "--tracking-uri", self._world.uri])
        output = self._captured.readouterr()
        text = output.out + output.err
        assert "Traceback" not in text
        if status == 0 and name in ("report", "export"):
            (made_by,) = set(re.findall(rf"{self._world.workspace}/(?:report|sft)/(\w+)", text))
            (run_id,) = {run_id for run_id in self.ids() if self._made(run_id, made_by)}
            return run_id
        (run_id,) = {run_id for run_id in self.ids() if f"{run_id} " in text or f"{run_id}<" in text}
        return run_id

    def ids(self) -> list[str]:
        return [OLD, NEW, LATER, QUIET, AWAY, STRANGER, GOOD, FAILED]

    def _made(self, run_id: str, key: str) -> bool:
        return any(row.key == key for row in RunFolder(self._world.workspace, run_id).stages())


@pytest.fixture
def command(world: RunsWorld, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(world, capsys)


def test_status(command: Command, reference: tuple[str, str]) -> None:
    assert command.run_of("status", reference[0]) == reference[1]


def test_report(command: Command, reference: tuple[str, str]) -> None:
    assert command.run_of("report", reference[0]) == reference[1]


def test_export(command: Command, reference: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tuned model of the run is taken; that a model is exported as it should be is another test."""
    monkeypatch.setattr(export_stage, "export_to", lambda config, model, folder: print(f"{model} "))
    assert command.run_of("export", reference[0], "-o", str(tmp_path / "model")) == reference[1]


def test_compare(
    world: RunsWorld, reference: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    places = ["--workspace", str(world.workspace), "--tracking-uri", world.uri]
    assert main(["compare", reference[0], OTHER, *places, "-o", str(page)]) == 0
    text = page.read_text()
    assert {run_id for run_id in (OLD, NEW, LATER, QUIET, AWAY, STRANGER) if run_id in text} == {reference[1]}


def test_gate(world: RunsWorld, reference: tuple[str, str]) -> None:
    context = RunContext(run_id="now", run_name="now", workspace=world.workspace, tracking_uri=world.uri)
    (baseline,) = find_baselines(context, [Gate(baseline=reference[0])], "captioning").values()
    assert baseline.run.run_id == reference[1]


def test_without_a_reference_the_newest_run_of_the_workspace_is_meant(world: RunsWorld) -> None:
    assert find_run("", Places(world.workspace, world.uri)).run_id == FAILED


def test_a_gate_takes_finished_runs_alone_and_never_its_own(world: RunsWorld) -> None:
    places = Places(world.workspace, world.uri)
    assert find_run("flaky", places).run_id == FAILED
    assert find_run("flaky", places, finished_only=True).run_id == GOOD
    assert find_run(FAILED, places, finished_only=True).run_id == FAILED
    context = RunContext(run_id=NEW, run_name="night", workspace=world.workspace, tracking_uri=world.uri)
    (baseline,) = find_baselines(context, [Gate(baseline="night")], "captioning").values()
    assert baseline.run.run_id == OLD


def test_a_gate_needs_no_tracking_where_the_workspace_has_the_run(world: RunsWorld) -> None:
    context = RunContext(run_id="now", run_name="now", workspace=world.workspace)
    (baseline,) = find_baselines(context, [Gate(baseline="quiet")], "captioning").values()
    assert (baseline.run.run_id, baseline.run_id) == (QUIET, QUIET)
    assert baseline.evaluation.folder is not None
    with pytest.raises(ConfigurationError, match=r"captioning is 'away': There is no finished run.*tracking is off"):
        find_baselines(context, [Gate(baseline="away")], "captioning")


def test_a_run_that_is_in_both_has_its_folder_and_its_mlflow_run(world: RunsWorld) -> None:
    for name in (OLD, mlflow_run_of(world, OLD), "models:/runs@champion", mlflow_run_of(world, OLD, "stage")):
        run = find_run(name, Places(world.workspace, world.uri))
        assert run.here().path == world.workspace / "runs" / OLD
        assert run.mlflow_run_id == mlflow_run_of(world, OLD)
        assert run.started is not None
        assert run.started.day == 1


def test_a_folder_of_another_run_with_the_same_id_is_not_taken(world: RunsWorld, tmp_path: Path) -> None:
    """Ids are made of a name and a time: two workspaces may have the same one."""
    twin = RunsWorld(tmp_path, world.uri, world.home)
    twin.run(AWAY, "away", 1, tracked=False)
    run = find_run(mlflow_run_of(world, AWAY), Places(tmp_path, world.uri))
    assert (run.run_id, run.folder) == (AWAY, None)


def test_what_is_not_found_is_told_with_what_there_is(world: RunsWorld, tmp_path: Path) -> None:
    def error(reference: str, places: Places) -> str:
        with pytest.raises(InputError) as caught:
            find_run(reference, places)
        return str(caught.value)

    text = error("nigth", Places(world.workspace, world.uri))
    assert f"no run 'nigth' in {world.workspace} (newest first: {FAILED}, {GOOD}, {LATER}, {NEW}, " in text
    assert f"none in MLflow at {world.uri} (newest first: " in text
    text = error("nigth", Places(tmp_path))
    assert text == f"There is no run 'nigth' in {tmp_path} (it has none), and no MLflow to look in."
    assert "not the folder of a run (no run.json, no context.json)" in error(str(tmp_path), Places(world.workspace))
    stage = next(world.workspace.glob("sft/*/manifest.json")).parent
    assert "is the folder of a stage, which several runs may share" in error(str(stage), Places(world.workspace))
    assert "There are no runs in" in error("", Places(tmp_path))
    assert "does not have 'models:/none@x'" in error("models:/none@x", Places(tmp_path, world.uri))
    assert "models:/NAME@ALIAS" in error("models:/none", Places(tmp_path, world.uri))
    assert "both kinds of quotes" in error("a'b\"c", Places(tmp_path, world.uri))


def test_a_store_that_can_not_be_asked_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(
        StageError, match=rf"{tmp_path} has no run 'x', and MLflow could not be asked. MLflow at sqlite"
    ):
        find_run("x", Places.of(tmp_path))


def test_signs_of_mlflows_filters_are_letters_like_others(world: RunsWorld, tmp_path: Path) -> None:
    open_pipeline_run(world.uri, "runs", "it's 1 %", "its_1", tmp_path, {})
    places = Places(tmp_path, world.uri)
    for name in ("it's 1 %", "its_1", "its_"):
        assert find_run(name, places).run_id == "its_1"
    for name in ("it's%", "i_s", "its%1", "%", "_"):
        with pytest.raises(InputError, match="There is no run"):
            find_run(name, places)


def test_a_folder_that_was_taken_out_of_its_workspace_is_refused(world: RunsWorld, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"does not lie in <workspace>/runs.*Put it back"):
        find_run(str(tmp_path), Places(world.workspace))


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"runs/x/run.json is no JSON"):
        find_run("x-1", Places(tmp_path))


def test_a_stage_is_found_by_the_folder_or_by_mlflow(world: RunsWorld) -> None:
    places = Places(world.workspace, world.uri)
    here, away = (find_stage(find_run(name, places), "sft") for name in (OLD, AWAY))
    assert here is not None
    assert here.folder == world.workspace / "sft" / here.key
    assert away is not None
    assert (away.key != here.key, away.folder) == (True, None)
    assert find_stage(find_run(OLD, places), "combine") is None
    assert find_stage(find_run(AWAY, places), "combine") is None


def test_export_of_a_run_without_a_tuned_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path, "early-1").update_record(name="early", started="2026-01-01T00:00:00+00:00", state="failed")
    assert main(["export", "early", "-o", str(tmp_path / "x"), "--workspace", str(tmp_path)]) == 1
    assert "early-1 has no tuned model: its stage sft has not finished" in capsys.readouterr().err


def test_a_report_comes_from_mlflow_where_the_workspace_is_not_here(
    world: RunsWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--workspace", str(tmp_path), "--tracking-uri", world.uri]
    assert main(["report", "away", *options]) == 1
    assert f"The report of the run {AWAY} is neither in {tmp_path} or " in capsys.readouterr().err
    client = connect(world.uri)
    stages = stage_runs(client, client.get_run(mlflow_run_of(world, AWAY)))
    client.log_text(stages["report"].info.run_id, "<p>the report</p>", "report.html")
    assert main(["report", "away", *options]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert (path, path.read_text()) == (tmp_path / f"report-{AWAY}.html", "<p>the report</p>")
    assert main(["report", "away", *options, "-o", "mine.html"]) == 0
    assert (tmp_path / "mine.html").read_text() == "<p>the report</p>"


RESUMED, RETRIED = "26261be5-cdb5-4bfa-b908-3c1c9f5216e4", "b6a386ac-8315-4a47-8030-3167b4510a25"
SMALL, BAD_IMAGE = "6190b9ed-d618-427c-865c-687d2d232add", "4d764573-8521-4a20-8cd7-fbe2b153abcf"


@pytest.fixture(scope="module")
def server(world: RunsWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KfpServer]:
    """A cluster with the runs of a real one, two of them named "laptop", one of them known to MLflow too."""
    server = KfpServer()
    for name in ("running_resumed", "failed_after_retries", "succeeded_two_nodes_partitions", "cancelled_bad_image"):
        server.add_recorded(recorded_run(name), recorded_specification())
    RunsWorld(tmp_path_factory.mktemp("mounted"), world.uri, world.home).run(SMALL, "small-1", 6)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("laptop", RESUMED),
        ("small-1", SMALL),
        (RETRIED, RETRIED),
        ("b6a386", RETRIED),
        ("2626", RESUMED),
        ("MLflow", SMALL),
        ("folder", SMALL),
    ],
)
def test_on_a_cluster_too(
    world: RunsWorld,
    server: KfpServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    expected: str,
) -> None:
    if name == "MLflow":
        name = mlflow_run_of(world, SMALL)
    if name == "folder":
        RunFolder(tmp_path, SMALL).update_record(name="small-1")
        name = str(RunFolder(tmp_path, SMALL).path)
    options = ["--endpoint", server.url, "--tracking-uri", world.uri]
    assert main(["status", name, *options]) == 0
    assert f"{server.url}/#/runs/details/{expected}\n" in capsys.readouterr().out
    if expected == RESUMED:  # it is over at the look after the one that cancels it
        server.script.extend([{}, {"state": "CANCELED"}])
    main(["cancel", name, *options])
    output = capsys.readouterr().out
    assert f"run      {expected}\n" in output
    assert ("the run is over already" in output) == (expected != RESUMED)
    if expected == RESUMED:
        assert server.runs[RESUMED]["state"] == "CANCELED"
        server.runs[RESUMED]["state"] = "RUNNING"


def test_the_newest_run_of_a_cluster(server: KfpServer) -> None:
    runs = KfpRuns(server.url)
    assert runs.find("") == BAD_IMAGE
    with pytest.raises(InputError, match=rf"no run 'Laptop' at {server.url}. Its runs, newest first: bad-image \(4d76"):
        runs.find("Laptop")


def test_a_run_is_found_behind_a_thousand_others(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {
        f"{number:08}-{RESUMED[:8]}": {
            "run_id": f"{number:08}-{RESUMED[:8]}",
            "display_name": "LAPTOP",
            "created_at": "2026-12-01T00:00:00Z",
        }
        for number in range(1000)
    }
    monkeypatch.setattr(server, "runs", {**others, **server.runs})
    runs = KfpRuns(server.url)
    assert runs.find("laptop") == RESUMED
    assert runs.find(RESUMED[:8]) == RESUMED


def test_namespace_is_the_one_that_kfps_tools_keep(server: KfpServer) -> None:
    assert KfpRuns(server.url).namespace == ""
    saved = Path("~/.config/kfp/context.json").expanduser()
    try:
        KfpRuns(server.url).client.set_user_namespace("mine")
        assert KfpRuns(server.url).namespace == "mine"
        assert KfpRuns(server.url, "theirs").namespace == "theirs"
        saved.write_text("{")
        with pytest.raises(ConfigurationError, match=rf"{saved}, where KFP's tools keep .* or pass --namespace"):
            KfpRuns(server.url)
    finally:
        saved.unlink()
