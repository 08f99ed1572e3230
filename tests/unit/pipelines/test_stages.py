"""The table of stages: what one more row does. That it says what the compiled DAG does is in test_compile.py."""

from pathlib import Path

import pytest
from kfp import compiler, dsl

from pipelines import opening, stages
from pipelines.opening import stage_settings, stored_settings
from pipelines.placement import place
from pipelines.preset_files import load_preset
from pipelines.stages import Place, Stage, listed_stages, training_stages
from tests.support.packages import read_package

CLUSTER = load_preset("mistral-clip-7b")
AGAIN = Stage("sft/again", "components.sft.component:sft", "sft", follows=("sft",), place=Place.TRAINING)


@pytest.mark.parametrize("preset", ["laptop", "mistral-clip-7b"])
def test_names_are_unique_and_what_a_stage_follows_stands_above_it(preset: str) -> None:
    above: set[str] = set()
    for stage in training_stages(load_preset(preset)):
        assert stage.name not in above
        assert set(stage.follows) <= above
        above.add(stage.name)


def test_a_row_gives_a_stage_its_line_its_settings_and_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (stages, opening):
        monkeypatch.setattr(module, "training_stages", lambda config: (*training_stages(config), AGAIN))
    assert listed_stages(CLUSTER)[-1].name == "sft/again"
    assert stage_settings(CLUSTER)["sft/again"] == stored_settings(CLUSTER.sft)

    @dsl.pipeline(name="again")
    def pipeline(context: dict, settings: dict, model: dsl.Input[dsl.Model], dataset: dsl.Input[dsl.Dataset]) -> None:  # type: ignore[type-arg]
        inputs = {"context": context, "settings": settings, "model": model, "dataset": dataset}
        place(AGAIN.load()(stage=AGAIN.name, cluster={}, **inputs), AGAIN, CLUSTER)

    compiler.Compiler().compile(pipeline, str(tmp_path / "package.yaml"))
    package, _ = read_package(tmp_path / "package.yaml")
    (task,) = package["root"]["dag"]["tasks"].values()
    assert (task["taskInfo"]["name"], task["retryPolicy"]["maxRetryCount"]) == ("sft: again", 2)
    (executor,) = package["deploymentSpec"]["executors"].values()
    assert executor["container"]["image"] == CLUSTER.cluster.cpu_image
    assert executor["container"]["resources"]["resourceMemoryRequest"] == CLUSTER.cluster.launcher_memory
