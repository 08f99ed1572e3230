"""Every family of language models and vision towers against transformers: decoding, loss, gradients, and the way back."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.context import RunContext
from components.export.config import ExportConfig
from components.export.stage import run_export
from components.export.tensors import module_name
from components.model.families.language.registry import LANGUAGE_FAMILIES
from components.model.families.vision.registry import VISION_FAMILIES
from tests.support.families import LANGUAGE_CLASSES, VISION_CLASSES
from tests.support.parity import (
    CASES,
    SIZES,
    Case,
    Expected,
    Measured,
    Reference,
    build_reference,
    expected_of,
    training_at,
)

BOUND = 1e-4
NAMES = [case.name for case in CASES]


def test_every_family_has_a_case() -> None:
    assert {case.family for case in CASES} == LANGUAGE_FAMILIES.keys() == LANGUAGE_CLASSES.keys()
    assert {case.tower for case in CASES} == VISION_FAMILIES.keys() == VISION_CLASSES.keys()


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    folder = tmp_path_factory.mktemp("families")
    return {case.name: build_reference(folder / str(n), case, torch.float32) for n, case in enumerate(CASES)}


@pytest.fixture(scope="module", params=SIZES)
def measured(
    request: pytest.FixtureRequest, references: dict[str, Reference], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Measured]:
    models = {name: reference.model for name, reference in references.items()}
    return training_at(request.param, models, tmp_path_factory.mktemp("measured") / "results")


@pytest.fixture(scope="module")
def expected(references: dict[str, Reference]) -> dict[str, Expected]:
    return {name: expected_of(reference) for name, reference in references.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_decoding_step_equals_reading_everything_again(
    measured: dict[str, Measured], expected: dict[str, Expected], name: str
) -> None:
    assert (measured[name].steps - expected[name].steps).abs().max() <= BOUND


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_all_gradients_equal_transformers(
    references: dict[str, Reference], measured: dict[str, Measured], expected: dict[str, Expected], name: str
) -> None:
    assert (measured[name].losses - expected[name].losses).abs().max() <= BOUND
    found = measured[name].read_gradients(references[name])
    assert found.keys() == expected[name].gradients.keys()
    for parameter, gradient in expected[name].gradients.items():
        assert gradient.abs().max() > 0, parameter
        assert (found[parameter] - gradient).abs().max() <= BOUND * gradient.abs().max(), parameter


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_way_back_changes_no_bit_and_loads_in_transformers(
    references: dict[str, Reference], case: Case, tmp_path: Path
) -> None:
    reference = references[case.name]
    context = RunContext(run_id="t", run_name="t", workspace=tmp_path)
    config = ExportConfig(tolerance=BOUND, custom_code=not case.stock)
    output = run_export(context, config, reference.model)
    assert output.manifest.facts["max_logit_difference"] <= BOUND
    exported = load_file(output.folder / "model.safetensors")
    for part, prefix in (("language", "language_model."), ("vision", "vision_tower.vision_model.")):
        source = load_file(reference.sources / part / "model.safetensors")
        names = {key: f"{prefix}{key}" if case.stock else module_name(f"{prefix}{key}") for key in source}
        kept = {key: tensor for key, tensor in source.items() if names[key] in exported}
        left_out = source.keys() - kept.keys()
        assert all(key.startswith(("post_layernorm", "head.", "encoder.layers.2.")) for key in left_out), left_out
        for key, tensor in kept.items():
            if not key.startswith("post_layernorm"):
                assert torch.equal(exported[names[key]], tensor), key
