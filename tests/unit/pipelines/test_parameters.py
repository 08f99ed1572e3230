"""The table of UI parameters: what one more line does, and how values reach the task that opens the run."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl

from components.errors import StageError
from components.runs.folder import PACKAGE_NAME
from pipelines import opening, parameters
from pipelines.config import setting
from pipelines.opening import settle, stored_settings
from pipelines.parameters import UI_PARAMETERS, Parameter, given_parameters, takes_parameters
from pipelines.preset_files import load_preset
from tests.support.local_worker import run_local_worker

LAPTOP = load_preset("laptop")
SEED = Parameter("pretrain_seed", int, "Seed of pretraining.", ("pretrain.recipe.seed",))


@pytest.mark.parametrize("parameter", UI_PARAMETERS, ids=lambda parameter: parameter.name)
def test_every_line_names_settings_of_its_type(parameter: Parameter) -> None:
    values = [setting(LAPTOP, key) for key in parameter.keys(LAPTOP)] or [[]]
    assert {type(value) for value in values} <= {parameter.type}


def test_one_line_adds_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    readers = ("pipelines.open_run", "pipelines.vlm_training")  # they read the table when they are imported
    for name in readers:
        importlib.import_module(name)
    for name in readers:
        monkeypatch.delitem(sys.modules, name)
    for module in (parameters, opening):
        monkeypatch.setattr(module, "UI_PARAMETERS", (SEED, *UI_PARAMETERS))
    from pipelines.vlm_training import build_pipeline

    package = build_pipeline(LAPTOP).pipeline_spec
    found = package.root.input_definitions.parameters["pretrain_seed"]
    assert (found.description, found.default_value.number_value) == (
        "Seed of pretraining.",
        LAPTOP.pretrain.recipe.seed,
    )
    values = {parameter.name: parameter.default(LAPTOP) for parameter in UI_PARAMETERS}
    assert settle(stored_settings(LAPTOP), {**values, "pretrain_seed": 77}).pretrain.recipe.seed == 77


@dsl.component(base_image="unused", install_kfp_package=False)
@takes_parameters()
def written_down(path: str, **parameters):  # type: ignore[no-untyped-def]
    """Stand in for the opening of a run.

    Args:
        path: Where the values go.
    """
    import json

    from pipelines.parameters import given_parameters

    with open(path, "w") as stream:
        json.dump(given_parameters(), stream)


def test_values_reach_the_task_as_they_were_typed(tmp_path: Path) -> None:
    values: dict[str, Any] = {parameter.name: parameter.default(LAPTOP) for parameter in UI_PARAMETERS}
    values |= {"run_name": """a "name" with \\ and 'quotes'""", "sft_iterations": 7, "queue": ""}
    values |= {"sft_learning_rate": 1e-6, "overrides": ['data.source="a b"']}

    @dsl.pipeline(name="parameters")
    @takes_parameters(defaults=LAPTOP)
    def pipeline(**parameters: Any) -> None:
        written_down(path=str(tmp_path / "values.json"), **parameters)

    compiler.Compiler().compile(pipeline, str(tmp_path / PACKAGE_NAME), pipeline_parameters=values)
    done = run_local_worker(tmp_path, "parameters")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "values.json").read_text())
    assert found == values
    assert type(found["sft_iterations"]) is int


def test_a_package_of_another_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {parameter.name: "x" for parameter in UI_PARAMETERS if parameter.name != "queue"}
    executor_input = json.dumps({"inputs": {"parameterValues": values}})
    monkeypatch.setattr(
        sys, "argv", ["executor", "--executor_input", executor_input, "--function_to_execute", "open_run"]
    )
    with pytest.raises(StageError, match=r"no value of queue.*Compile it again"):
        given_parameters()
