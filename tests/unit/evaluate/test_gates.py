"""Gates against an earlier run: paired tests, and baselines in a real MLflow store."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from components.context import RunContext
from components.errors import ConfigurationError, StageError
from components.evaluate.config import EvaluateConfig, Gate
from components.evaluate.gates import Rival, enforce_gates, judge
from components.evaluate.paired import paired_tests
from components.evaluate.quality_gate import run_quality_gate
from components.evaluate.sample_scores import SampleScore, SampleScores
from components.evaluate.scores import GateResult, Measure, Presentation, Scores, read_scores
from components.evaluate.stage import run_evaluate
from components.generate.config import GenerateConfig
from components.metrics.metric import Direction, Metric, mean
from components.metrics.paired import MCNEMAR, SIGN_FLIP, SWAP, paired_test
from components.metrics.registry import OWN_METRICS
from components.metrics.right_or_wrong import ACCURACY
from components.tasks.sample import HeldOutSample
from components.tracking.client import connect
from components.tracking.pipeline_run import close_pipeline_run, open_pipeline_run
from components.tracking.registry import RegistryConfig
from tests.support.evaluation_world import Answerer, finished_stage, good_choice, predictions, raw_dataset, stub_model

COUNT = 60


def scored(values: Sequence[float], metric: str = "accuracy") -> SampleScores:
    rows = [
        SampleScore(id=str(number), image="", text="", statistics={f"{metric}@1": (value, 1.0)})
        for number, value in enumerate(values)
    ]
    return SampleScores(tuple(rows))


def test_every_metric_is_tested_by_its_form_in_points() -> None:
    generator = np.random.default_rng(3)
    right, values = generator.integers(0, 2, (2, 40)).astype(float), generator.normal(3.0, 2.0, (2, 40))
    for metric, (first, second), form, method in (
        ("accuracy", right, "share", MCNEMAR),
        ("cider", values, "mean", SIGN_FLIP),
    ):
        test = paired_tests(scored(first.tolist(), metric), scored(second.tolist(), metric), [metric])[metric]
        expected = paired_test(*(np.stack([side, np.ones(40)], axis=1) for side in (first, second)), mean, form)
        assert test.method == expected.method == method
        assert test.p_value == expected.p_value
        assert (test.value, test.low, test.high) == pytest.approx(
            (100 * expected.value, 100 * expected.low, 100 * expected.high), abs=1e-4
        )


def test_groups_are_what_is_exchanged() -> None:
    """Ten answers about each of six pictures say no more than six answers: McNemar's test of sixty would be sure."""

    def answered(right: float, pictures: int = 6) -> SampleScores:
        rows = [
            SampleScore(
                id=str(number),
                image="",
                text="",
                statistics={"accuracy@1": (right, 1.0)},
                units={"accuracy@1": str(number * pictures // 60)},
            )
            for number in range(60)
        ]
        return SampleScores(tuple(rows))

    test = paired_tests(answered(0.0), answered(1.0), ["accuracy"])["accuracy"]
    assert (test.value, test.method, test.p_value) == (100, SWAP, pytest.approx(2 / 2**6))
    with pytest.raises(ValueError, match="those of accuracy differ"):
        paired_tests(answered(0.0), answered(1.0, pictures=5), ["accuracy"])


def test_equal_models_differ_by_nothing() -> None:
    values = scored([0.5, 1.0, 0.25], "cider")
    test = paired_tests(values, values, ["cider"])["cider"]
    assert (test.value, test.low, test.high, test.p_value) == (0, 0, 0, 1)


@dataclass(frozen=True)
class World:
    """A workspace with an MLflow store and a finished run "first" whose model is good at multiple choice."""

    uri: str
    home: Path
    workspace: Path
    raw: Path
    first: RunContext

    def opened(self, name: str) -> RunContext:
        number = len(list((self.workspace / "runs").glob("*"))) if (self.workspace / "runs").is_dir() else 0
        run_id = f"{self.workspace.name}-{name}-{number}"
        mlflow_run_id = open_pipeline_run(self.uri, "gates", name, run_id, self.home, {"name": name})
        return RunContext(
            run_id=run_id,
            run_name=name,
            workspace=self.workspace,
            tracking_uri=self.uri,
            experiment="gates",
            mlflow_run_id=mlflow_run_id,
        )

    def evaluated(self, context: RunContext, answer: Answerer, gate: Gate | None, raw: Path | None = None) -> Path:
        """Evaluate a model of its own (the run's id makes it one) that answers as given."""
        raw = raw or self.raw
        untracked = context.model_copy(update={"tracking_uri": "", "mlflow_run_id": ""})
        model = stub_model(untracked, made_by=context.run_id)
        folders = predictions(untracked, GenerateConfig(task="multiple_choice"), model, raw, answer)
        config = EvaluateConfig(task="multiple_choice", gates=(gate,) if gate else (), samples=2)
        output = run_evaluate(context, config, folders, model, raw)
        close_pipeline_run(self.uri, context.mlflow_run_id, "FINISHED")
        return output.folder

    def judged(self, answer: Answerer, gate: Gate, raw: Path | None = None) -> GateResult:
        (result,) = read_scores(self.evaluated(self.opened("second"), answer, gate, raw)).gates
        return result


@pytest.fixture(scope="module")
def world(tracking_uri: str, tracking_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    workspace = tmp_path_factory.mktemp("gates")
    raw = raw_dataset(RunContext(run_id="r", run_name="r", workspace=workspace), COUNT, side=16)
    world = World(tracking_uri, tracking_workspace, workspace, raw, RunContext(run_id="", run_name="", workspace=raw))
    first = world.opened("first")
    world.evaluated(first, good_choice, None)
    return World(tracking_uri, tracking_workspace, workspace, raw, first)


def a_little_worse(sample: HeldOutSample, picture: str) -> str:
    return "nothing readable" if sample.id in ("q-2", "q-3") else good_choice(sample, picture)


def always_a(sample: HeldOutSample, picture: str) -> str:
    return "A"


@pytest.mark.parametrize(
    ("answer", "settings", "passed", "note"),
    [
        (good_choice, {}, True, "no significant difference"),
        (a_little_worse, {}, True, "the drop is not significant at 0.05; the interval allows for one of"),
        (always_a, {}, False, "the drop is significant at 0.05"),
        (always_a, {"max_drop": 90}, True, "significant, but allowed"),
        (always_a, {"significance": 1e-30}, True, "not significant at 1e-30"),
    ],
)
def test_a_significant_drop_alone_misses_the_gate(
    world: World, answer: Answerer, settings: dict[str, float], passed: bool, note: str
) -> None:
    result = world.judged(answer, Gate.model_validate({"baseline": "first", **settings}))
    assert (result.passed, result.outcome) == (passed, "pass" if passed else "fail")
    assert note in result.note
    assert result.baseline == world.first.mlflow_run_id
    assert result.difference is not None
    assert result.difference.method == MCNEMAR
    assert "McNemar" in result.measured


def test_another_dataset_is_refused_with_both_named_and_never_passes(world: World) -> None:
    untracked = RunContext(run_id="r", run_name="r", workspace=world.workspace)
    other = raw_dataset(untracked, COUNT, seed=5, side=16)
    context = world.opened("second")
    folder = world.evaluated(context, good_choice, Gate(baseline=world.first.mlflow_run_id), other)
    (result,) = read_scores(folder).gates
    hashes = [read_scores(path).dataset[:16] for path in (first_folder(world), folder)]
    assert f"the ground truth (SHA-256) differs: {hashes[0]} and {hashes[1]}" in result.note
    assert result.difference is None
    with pytest.raises(StageError, match=r"NOT PASSED with nothing: they can't be compared.*SHA-256"):
        enforce_gates([folder])
    warned = world.judged(good_choice, Gate(baseline="first", action="warn"), other)
    assert warned.outcome == "warn"


def first_folder(world: World) -> Path:
    client = connect(world.uri)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("gates").experiment_id],
        f"tags.`mlflow.parentRunId` = '{world.first.mlflow_run_id}' and tags.`vlm.stage` = 'evaluate/multiple_choice'",
    )
    return world.workspace / "evaluate" / "multiple_choice" / run.data.params["key"]


def test_a_baseline_of_another_version_of_the_metric_is_refused_and_never_passes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = replace(ACCURACY, version=2)
    monkeypatch.setitem(OWN_METRICS, "accuracy", newer)  # type: ignore[index]
    result = world.judged(good_choice, Gate(baseline="first"))
    assert not result.passed
    assert result.measured == "nothing: they can't be compared"
    assert "its accuracy is of version 1 of the metric, this code has version 2" in result.note


def test_gates_of_a_metric_whose_lower_values_are_better(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = Metric(
        name="accuracy",
        label="Errors",
        per_sample=lambda value: (value, 1.0),
        unit="per cent",
        direction="lower",
        form="mean",
    )
    monkeypatch.setitem(OWN_METRICS, "accuracy", errors)  # type: ignore[index]
    with pytest.raises(ValueError, match="a lower accuracy is better: a minimum would let every bad model pass"):
        EvaluateConfig(task="multiple_choice", gates=(Gate(minimum=5),))
    few, many = ([float(number < count) for number in range(60)] for count in (3, 30))
    scores = {name: scores_of(values, "lower") for name, values in (("few", few), ("many", many))}
    assert scores["few"].best_control == "blank"
    assert "45.0 points below the same model shown a blank picture" in scores["few"].meaning
    gate = Gate(margin=10, baseline="earlier")
    for name, rival, passes in (("few", "many", [True, True]), ("many", "few", [False, False])):
        earlier = Rival("earlier", "0" * 32, scores[rival], scored({"few": few, "many": many}[rival]))
        results = judge([gate], scores[name], scored({"few": few, "many": many}[name]), {"earlier": earlier})
        assert [result.passed for result in results] == passes, name
    assert "not above earlier" in results[1].requirement


def scores_of(values: Sequence[float], direction: Direction) -> Scores:
    value = 100 * sum(values) / len(values)
    measure = Measure(value=value, low=value - 1, high=value + 1)
    difference = Measure(value=value - 50, low=value - 51, high=value - 49)
    return Scores(
        task="t", kind="k", headline="accuracy", n_expected=60, n_scored=60, n_dataset=60, duplicates=0, empties=0,
        metrics={"accuracy": measure},
        controls={"blank": {"accuracy": Measure(value=50)}, "constant": {"accuracy": Measure(value=70)}},
        differences={"blank": difference, "constant": difference.model_copy(update={"low": -90.0, "high": -70.0})},
        prompt="", prompt_version="t 1", dataset="d", dataset_file="f", checkpoint="c", generation="g", bootstrap_samples=100,
        git_commit="", presentation=Presentation(directions={"accuracy": direction}),
    )  # fmt: skip


def test_a_baseline_whose_folder_is_gone_is_read_from_mlflow(world: World, tmp_path: Path) -> None:
    folder = first_folder(world)
    shutil.move(folder, tmp_path / "elsewhere")
    try:
        result = world.judged(always_a, Gate(baseline="first"))
    finally:
        shutil.move(tmp_path / "elsewhere", folder)
    assert not result.passed
    assert result.difference is not None


def test_a_registered_model_stands_for_its_run(world: World) -> None:
    client = connect(world.uri)
    client.create_registered_model("vlm")
    version = client.create_model_version("vlm", "file:///models/first", run_id=world.first.mlflow_run_id).version
    client.set_registered_model_alias("vlm", "champion", version)
    for reference in ("models:/vlm@champion", f"models:/vlm/{version}"):
        assert world.judged(good_choice, Gate(baseline=reference)).baseline == world.first.mlflow_run_id


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ("firts", "There is no finished run 'firts' in .* and none in MLflow at .*newest first: .*second"),
        ("0" * 32, "There is no finished run '0000"),
        ("models:/nothing@champion", "MLflow does not have.*Register a model first"),
        ("models:/nothing", "models:/NAME@ALIAS or models:/NAME/VERSION"),
    ],
)
def test_a_baseline_that_does_not_exist_is_named(world: World, reference: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        world.judged(good_choice, Gate(baseline=reference))


def test_a_baseline_needs_tracking(world: World) -> None:
    context = world.first.model_copy(update={"tracking_uri": ""})
    with pytest.raises(ConfigurationError, match="tracking is off"):
        world.evaluated(context, good_choice, Gate(baseline="first"))


def test_a_threshold_within_the_interval_is_said_to_be_noise(world: World) -> None:
    near = world.judged(good_choice, Gate(minimum=75))
    far = world.judged(good_choice, Gate(minimum=10))
    assert "noise could decide" in near.note
    assert far.note == ""


REGISTRY = RegistryConfig(name="registered", alias="champion")


def ended(world: World, answer: Answerer, gate: Gate, export: str) -> tuple[RunContext, str]:
    """Evaluate a run and put it through its quality gate; return the registered version's number."""
    context = world.opened("ended")
    evaluation = world.evaluated(context, answer, gate)
    exported = finished_stage(context, "export", lambda work: {"tensors": 1}, {"model": "sft/00"}, model=export)
    return context, run_quality_gate(context, REGISTRY, [evaluation], exported)


def test_a_model_that_passes_is_registered_once_with_scores_and_lineage(world: World) -> None:
    client = connect(world.uri)
    context, number = ended(world, good_choice, Gate(minimum=10), "a")
    version = client.get_model_version_by_alias("registered", "champion")
    assert (str(version.version), version.run_id) == (number, context.mlflow_run_id)
    assert version.source == Path(version.tags["vlm.folder"]).as_uri()
    assert Path(version.tags["vlm.folder"]).is_dir()
    assert re.fullmatch(r"\d+\.\d \(\d+\.\d to \d+\.\d\)", version.tags["vlm.score.multiple_choice.accuracy"])
    assert version.tags["vlm.made_from.model"] == "sft/00"
    assert len(version.tags["vlm.dataset.multiple_choice"]) == 64
    assert "| multiple_choice | Accuracy |" in version.description
    assert client.get_run(context.mlflow_run_id).data.tags["vlm.gate.multiple_choice"] == "pass"
    _, again = ended(world, good_choice, Gate(minimum=10), "a")
    assert again == number
    _, other = ended(world, good_choice, Gate(minimum=10), "b")
    assert str(client.get_model_version_by_alias("registered", "champion").version) == other != number


def test_a_model_that_misses_a_gate_is_not_registered(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    client = connect(world.uri)
    before = len(client.search_model_versions("name = 'registered'"))
    context, number = ended(world, always_a, Gate(baseline="first", action="warn"), "warned")
    assert number == ""
    assert "not registered as registered: multiple_choice missed a gate" in capsys.readouterr().out
    tags = client.get_run(context.mlflow_run_id).data.tags
    assert tags["vlm.gate.multiple_choice"] == "warn"
    assert "the drop is significant" in tags["vlm.gate.multiple_choice.judged"]
    with pytest.raises(StageError, match="does not pass its quality gates"):
        ended(world, always_a, Gate(baseline="first"), "failed")
    assert len(client.search_model_versions("name = 'registered'")) == before
