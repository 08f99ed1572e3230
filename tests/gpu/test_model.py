"""The model on a GPU against transformers on the CPU: float32, bf16, gradients, cached decoding."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from components.model.checkpoint.sharded import load_model, save_model
from components.model.config import read_model_config
from components.model.decoding import generate
from components.model.distributed import destroy, initialize, seed_everything
from components.model.vlm import VisionLanguageModel, build_model
from tests.support.model_samples import VOCABULARY, packed, pixel_values, samples
from tests.support.model_world import World, build_world, projector_weights, reference_embeddings, reference_logits

# Relative to the largest value. Plain layers compute float32 in full; Transformer Engine's products round their operands to
# TF32, of 10 bits.
FLOAT32 = {"local": 1e-5, "transformer_engine": 5e-3}
# bf16 has 8 bits: three layers of it.
BF16 = 3e-2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module", autouse=True)
def processes(world: World) -> Iterator[None]:
    assert initialize(1).device.type == "cuda"
    yield
    destroy()


def loaded(world: World, layers: str, **arguments: Any) -> VisionLanguageModel:
    built = build_model(read_model_config(world.model), layers=layers, **arguments)  # type: ignore[arg-type]
    load_model(built, world.model / "checkpoint")
    return built.eval()


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Any, torch.Tensor]:
    batch = packed(samples())
    return batch.to(torch.device("cuda")), pixel_values(batch).to("cuda", dtype)


def reference(world: World, model: VisionLanguageModel) -> torch.Tensor:
    projector = {name: weight.cpu().float() for name, weight in projector_weights(model).items()}
    return torch.cat([reference_logits(world, projector, sample) for sample in samples()])


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.cpu().float() - expected).abs().max() / expected.abs().max())


def test_logits_equal_transformers(world: World, layers: str) -> None:
    model = loaded(world, layers)
    batch, pixels = inputs()
    with torch.no_grad():
        found, expected = model(batch, pixels)[:, :VOCABULARY], reference(world, model)
    assert distance(found, expected) <= FLOAT32[layers]


def test_bf16_logits_are_near_float32_ones(world: World, layers: str) -> None:
    model = loaded(world, layers, dtype=torch.bfloat16)
    batch, pixels = inputs(torch.bfloat16)
    with torch.no_grad():
        found, expected = model(batch, pixels)[:, :VOCABULARY], reference(world, model)
    assert distance(found, expected) <= BF16


def test_loss_and_gradients_equal_transformers(world: World, layers: str) -> None:
    model = loaded(world, layers)
    batch, pixels = inputs()
    losses = model(batch, pixels, compute_loss=True)
    losses.sum().backward()
    projector = {name: weight.detach().cpu().requires_grad_() for name, weight in projector_weights(model).items()}
    world.language.zero_grad()
    world.vision.zero_grad()
    logits = torch.cat([reference_logits(world, projector, sample) for sample in samples()])
    expected = torch.nn.functional.cross_entropy(logits, batch.labels.cpu(), ignore_index=-100, reduction="none")
    expected.sum().backward()
    assert distance(losses.detach(), expected.detach()) <= FLOAT32[layers]
    own = dict(model.named_parameters())
    pairs = {
        "vision_model.conv1.weight": world.vision.get_parameter("embeddings.patch_embedding.weight").grad,
        "language_model.embedding.word_embeddings.weight": world.language.get_parameter(
            "model.embed_tokens.weight"
        ).grad,
        "language_model.output_layer.weight": world.language.get_parameter("lm_head.weight").grad,
        **{f"vision_projection.{name}": weight.grad for name, weight in projector.items()},
    }
    for name, gradient in pairs.items():
        assert distance(own[name].grad[: len(gradient)], gradient) <= 4 * FLOAT32[layers], name


def test_checkpoints_go_from_one_kind_of_layers_to_the_other(world: World, layers: str, tmp_path: Path) -> None:
    model = loaded(world, layers)
    save_model(model, tmp_path / "checkpoint")
    other = build_model(read_model_config(world.model), layers="local")
    load_model(other, tmp_path / "checkpoint")
    expected = dict(loaded(world, "local").named_parameters())
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, expected[name]), name


def test_greedy_answers_equal_transformers(world: World) -> None:
    model = loaded(world, "local")
    projector = {name: weight.detach().cpu() for name, weight in projector_weights(model).items()}
    expected = []
    for sample in samples():
        embedded = reference_embeddings(world, projector, sample)[None]
        tokens = world.language.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.int64),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        expected.append(tokens[0].tolist())
    assert [list(answer) for answer in generate(model, samples(), end_tokens=[-1], max_new_tokens=12)] == expected


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputed_layers_give_the_same_gradients(world: World, layers: str, recompute: str) -> None:
    batch, pixels = inputs(torch.bfloat16)
    gradients = []
    for setting in ("none", recompute):
        model = loaded(
            world, layers, dtype=torch.bfloat16, hidden_dropout=0.2, attention_dropout=0.1, recompute=setting
        ).train()
        seed_everything(3)
        model(batch, pixels, compute_loss=True).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradients[1][name], gradient), name
