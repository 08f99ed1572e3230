"""Every family of language models and vision towers against transformers: decoding, loss, gradients, and the way back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from components.context import RunContext
from components.export.config import ExportConfig
from components.export.stage import run_export
from components.export.tensors import module_name
from components.model.checkpoint.streamed import ParameterReader
from components.model.config import read_model_config
from components.model.distributed import single_process
from components.model.families.language.registry import LANGUAGE_FAMILIES, language_family
from components.model.families.rules import TensorRule
from components.model.families.vision.registry import VISION_FAMILIES, vision_family
from components.model.vlm import outlined_model
from tests.support.families import LANGUAGE_CLASSES, VISION_CLASSES
from tests.support.model_samples import packed, pixel_values, samples
from tests.support.parity import (
    CASES,
    SIZES,
    Case,
    Measured,
    Reference,
    build_reference,
    training_at,
)
from tests.support.parity_worker import DECODED_STEPS, decoded_tokens
from tests.support.plain_projector import projector_names

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
def expected(references: dict[str, Reference]) -> dict[str, Tensor]:
    """transformers' loss per token; the gradients of their sum are in its models."""
    return {name: _backward(reference) for name, reference in references.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_decoding_step_equals_reading_everything_again(
    references: dict[str, Reference], measured: dict[str, Measured], name: str
) -> None:
    continued = [sample.tokens for sample in samples(image=references[name].image)]
    for step in range(DECODED_STEPS):
        if step:
            new = decoded_tokens(step)
            continued = [torch.cat([tokens, new[place, None]]) for place, tokens in enumerate(continued)]
        with torch.no_grad():
            found = torch.stack([_logits(references[name], n, tokens)[-1] for n, tokens in enumerate(continued)])
        assert (measured[name].steps[step] - found).abs().max() <= BOUND


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_all_gradients_equal_transformers(
    references: dict[str, Reference], measured: dict[str, Measured], expected: dict[str, Tensor], name: str
) -> None:
    reference = references[name]
    assert (measured[name].losses - expected[name]).abs().max() <= BOUND
    found = _gradients(reference, measured[name].gradients)
    trained = _expected_gradients(reference)
    assert found.keys() == trained.keys()
    for parameter, gradient in trained.items():
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


def _logits(reference: Reference, number: int, tokens: Tensor) -> Tensor:
    sample = samples(image=reference.image)[number]
    pictures = pixel_values(sample, reference.image) if len(sample.pixels) else None
    logits: Tensor = reference.llava(input_ids=tokens[None], pixel_values=pictures).logits[0]
    return logits


def _backward(reference: Reference) -> Tensor:
    chosen = samples(image=reference.image)
    logits = torch.cat([_logits(reference, number, sample.tokens) for number, sample in enumerate(chosen)])
    labels = packed(chosen).labels
    losses = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="none")
    losses.sum().backward()
    return losses.detach()


def _gradients(reference: Reference, checkpoint: Path) -> dict[str, Tensor]:
    with single_process():
        outline = outlined_model(read_model_config(reference.model))
        read = ParameterReader(outline, checkpoint)
        return {name: read(name) for name, _ in outline.named_parameters()}


def _expected_gradients(reference: Reference) -> dict[str, Tensor]:
    """Join transformers' gradients as the weights are joined."""
    config = read_model_config(reference.model)
    llava: Any = reference.llava
    language = language_family(config.language.family).rules(config.language)
    vision = vision_family(config.vision.family).rules(config.vision, "")
    joined = {f"language_model.{rule.target}": _joined(rule, llava.model.language_model, llava) for rule in language}
    joined |= {f"vision_model.{rule.target}": _joined(rule, llava.model.vision_tower, llava) for rule in vision}
    projector = llava.model.multi_modal_projector
    for name, own in projector_names(config).items():
        joined[f"vision_projection.{own}"] = projector.get_parameter(name).grad
    return joined


def _joined(rule: TensorRule, module: Any, llava: Any) -> Tensor:
    gradients = []
    for source in rule.sources:
        owner = llava if source.startswith("lm_head") else module
        gradient = owner.get_parameter(source.removeprefix("model.")).grad
        assert gradient is not None, source
        gradients.append(gradient)
    return rule.join(gradients)
