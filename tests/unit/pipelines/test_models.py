"""Published models in a run: what is asked of them, where it runs, and that a gate waits for its baseline."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.context import RunContext
from components.errors import ConfigurationError
from components.evaluate.baseline import find_baselines
from components.evaluate.config import Gate
from pipelines.compile import compile_pipeline
from pipelines.config import RunConfig
from pipelines.preset_files import load_preset, read_preset, validate
from pipelines.stages import Place, training_stages
from tests.support.packages import read_package
from tests.support.paths import ROOT

MODELS = "models={llava: {source: 'hf://llava-hf/llava-1.5-7b-hf'}, served: {endpoint: {url: 'http://vllm:8000/v1', name: qwen}}}"
QUESTIONS = "{generate: {task: multiple_choice_text}, evaluate: {}, model: %s}"
OVERRIDES = [
    MODELS,
    f"evaluations.llava_choice={QUESTIONS % 'llava'}",
    f"evaluations.served_choice={QUESTIONS % 'served'}",
    "evaluations.multiple_choice.evaluate.gates=[{baseline: llava-hf/llava-1.5-7b-hf}, {baseline: served}, {minimum: 50}]",
]


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_preset("laptop", OVERRIDES)


def test_a_gate_follows_the_models_that_it_names(config: RunConfig) -> None:
    stages = {stage.name: stage for stage in training_stages(config)}
    assert config.baselines_of("multiple_choice") == {
        "llava-hf/llava-1.5-7b-hf": "llava_choice",
        "served": "served_choice",
    }
    assert stages["generate/llava_choice"].follows == ("published_model/llava", "download/dataset")
    assert {"evaluate/llava_choice", "evaluate/served_choice"} <= set(stages["generate/multiple_choice"].follows)
    assert stages["generate/llava_choice"].place is Place.GPU
    assert stages["generate/served_choice"].place is Place.CPU  # its GPUs are elsewhere
    assert {"evaluate/llava_choice", "evaluate/served_choice"} <= set(stages["report"].follows)
    assert "evaluate/llava_choice" not in stages["export"].follows  # it is no score of what is exported


def test_the_compiled_pipeline_scores_a_baseline_before_its_gate(config: RunConfig, tmp_path: Path) -> None:
    compile_pipeline(config, tmp_path / "pipeline.yaml")
    package: dict[str, Any] = read_package(tmp_path / "pipeline.yaml")[0]
    dags = (component["dag"] for component in package["components"].values() if "dag" in component)
    tasks = dict(itertools.chain.from_iterable(dag["tasks"].items() for dag in dags))
    named = {task["taskInfo"]["name"]: task for task in tasks.values()}
    before = {
        tasks[name]["taskInfo"]["name"] for name in named["multiple_choice: generate, evaluate"]["dependentTasks"]
    }
    assert {"llava_choice: generate, evaluate", "served_choice: generate, evaluate"} <= before
    inputs = named["llava_choice: generate, evaluate"]["inputs"]["artifacts"]["model"]["taskOutputArtifact"]
    assert tasks[inputs["producerTask"]]["taskInfo"]["name"] == "published_model: llava"


def test_a_baseline_that_was_never_scored_says_how_to(tmp_path: Path) -> None:
    context = RunContext(run_id="r", run_name="r", workspace=tmp_path)
    with pytest.raises(ConfigurationError, match="vlm evaluate llava-hf/llava-1.5-7b-hf"):
        find_baselines(context, [Gate(baseline="llava-hf/llava-1.5-7b-hf")], "mmmu")


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["models={sft: {source: 'hf://a/b'}}"], "models.sft: is the name of a training stage's model"),
        (["models={llava: {source: 'hf://a/b'}}"], "models.llava: no evaluation asks it"),
        (["evaluations.captioning.model=llava"], "'llava' is none of pretrain, sft"),
        ([*OVERRIDES, "evaluations.captioning.evaluate.gates=[{baseline: llava}]"], "not asked captioning"),
        ([*OVERRIDES, "evaluations.llava_choice.evaluate.gates=[{baseline: served}]"], "no other one as a baseline"),
        (["models={llava: {}}"], "a source or an endpoint"),
    ],
)
def test_models_that_can_not_be_meant_are_refused(overrides: list[str], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load_preset("laptop", overrides)


def test_the_examples_of_the_guide_are_settings() -> None:
    guide = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", guide, flags=re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        tree = read_preset("laptop")
        given = yaml.safe_load(example)
        config = validate(
            {**tree, **given, "evaluations": {**tree["evaluations"], **given["evaluations"]}}, "the guide"
        )
        assert config.evaluations["mmmu"].evaluate.gates[0].baseline
