"""Every family of language models and vision towers against transformers: logits, answers, decoding, loss, gradients, the way back."""

import weakref
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from components.context import RunContext
from components.export.config import ExportConfig
from components.export.stage import run_export
from components.export.tensors import module_name
from components.model.families.language.registry import LANGUAGE_FAMILIES
from components.model.families.vision.registry import VISION_FAMILIES
from components.weight_conversion.config import WeightConversionConfig
from components.weight_conversion.safetensors_folder import SafetensorsFolder
from components.weight_conversion.stage import run_weight_conversion
from tests.support.families import LANGUAGE_CLASSES, VISION_CLASSES
from tests.support.parity import (
    CASES,
    SIZES,
    Case,
    Expected,
    Measured,
    Reference,
    behind_the_best,
    build_reference,
    expected_of,
    logits_at,
    training_at,
)
from tests.support.parity_worker import ANSWER_TOKENS, ANSWERS

BOUND = 1e-4
FP32_LOGITS_BOUND = 1e-5
# Both compute in bf16 and round at different places: each is about as far from the exact logits as the other. It is the worst
# of a few thousand values, and up to 1.8 times transformers' here.
BF16_LOGITS_BOUND = 3.0
NAMES = [case.name for case in CASES]


def test_every_family_has_a_case() -> None:
    assert {case.family for case in CASES} == LANGUAGE_FAMILIES.keys() == LANGUAGE_CLASSES.keys()
    assert {case.tower for case in CASES} == VISION_FAMILIES.keys() == VISION_CLASSES.keys()


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    folder = tmp_path_factory.mktemp("families")
    return {case.name: build_reference(folder / str(n), case, torch.float32) for n, case in enumerate(CASES)}


@pytest.fixture(scope="module")
def bf16_references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    folder = tmp_path_factory.mktemp("bf16")
    return {case.name: build_reference(folder / str(n), case, torch.bfloat16) for n, case in enumerate(CASES)}


@pytest.fixture(scope="module", params=SIZES)
def size(request: pytest.FixtureRequest) -> int:
    tensor_parallel: int = request.param
    return tensor_parallel


@pytest.fixture(scope="module")
def measured(
    size: int, references: dict[str, Reference], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Measured]:
    models = {name: reference.model for name, reference in references.items()}
    return training_at(size, models, tmp_path_factory.mktemp("measured") / "results")


@pytest.fixture(scope="module")
def logits(
    size: int,
    references: dict[str, Reference],
    bf16_references: dict[str, Reference],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Tensor]:
    """Of every case, in both types, by `<type>: <name of the case>`; and "wrong cut"."""
    models = {f"fp32: {name}": reference.model for name, reference in references.items()}
    models |= {f"bf16: {name}": reference.model for name, reference in bf16_references.items()}
    dtypes = {name: name.partition(":")[0] for name in models}
    return logits_at(size, models, dtypes, tmp_path_factory.mktemp("logits") / "results")


@pytest.fixture(scope="module")
def expected(references: dict[str, Reference]) -> dict[str, Expected]:
    return {name: expected_of(reference) for name, reference in references.items()}


def test_fp32_logits_equal_transformers(references: dict[str, Reference], logits: dict[str, Tensor]) -> None:
    for name, reference in references.items():
        assert reference.exact.abs().max() > 1
        assert (logits[f"fp32: {name}"] - reference.exact).abs().max() <= FP32_LOGITS_BOUND, name


def test_bf16_logits_are_as_near_to_exact_as_transformers(
    bf16_references: dict[str, Reference], logits: dict[str, Tensor]
) -> None:
    for name, reference in bf16_references.items():
        own_error = (reference.own - reference.exact).abs().max()
        assert own_error > 0
        assert (logits[f"bf16: {name}"] - reference.exact).abs().max() <= BF16_LOGITS_BOUND * own_error, name


def test_gate_and_up_cut_as_one_matrix_are_seen(
    references: dict[str, Reference], logits: dict[str, Tensor], size: int
) -> None:
    first = references[NAMES[0]]
    difference = (logits["wrong cut"] - first.exact).abs().max()
    # In one process nothing is cut, and the mistake can't show.
    assert difference > 1000 * FP32_LOGITS_BOUND if size > 1 else difference <= FP32_LOGITS_BOUND


@pytest.mark.parametrize("name", NAMES)
def test_every_decoding_step_equals_reading_everything_again(
    measured: dict[str, Measured], expected: dict[str, Expected], name: str
) -> None:
    assert (measured[name].steps - expected[name].steps).abs().max() <= BOUND


@pytest.mark.parametrize("name", NAMES)
def test_greedy_answers_are_those_of_transformers(
    references: dict[str, Reference], measured: dict[str, Measured], name: str
) -> None:
    answers = measured[name].answers
    assert answers.shape == (ANSWERS, ANSWER_TOKENS)
    assert len(answers.unique(dim=0)) > ANSWERS / 2
    # Two logits that differ by less are one to float32.
    assert behind_the_best(references[name], answers).max() <= 2 * FP32_LOGITS_BOUND


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


@pytest.mark.parametrize("part", ["language", "vision"])
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_conversion_holds_the_tensors_of_one_parameter(
    references: dict[str, Reference],
    case: Case,
    part: Literal["language", "vision"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = SafetensorsFolder.tensor
    given: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def watched(source: SafetensorsFolder, name: str) -> Tensor:
        tensor = read(source, name)
        given.append(weakref.ref(tensor))
        alive.append(sum(reference() is not None for reference in given))
        return tensor

    monkeypatch.setattr(SafetensorsFolder, "tensor", watched)
    context = RunContext(run_id="t", run_name="t", workspace=tmp_path)
    config = WeightConversionConfig(part=part, make_vocab_size_divisible_by=8, verify=False)
    run_weight_conversion(context, config, references[case.name].sources)
    assert len(given) > 20
    # Queries, keys and values become one parameter; the one before may be on its way to the file.
    assert max(alive) <= 4


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
