"""The estimate of memory, against what torch counts of a real training step."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch

from components.data.packing import EncodedSample, PackedBatch, pack
from components.model.config import ModelConfig, Part
from components.model.distributed import single_process
from components.model.vlm import VisionLanguageModel, build_model
from components.training.config import TrainingConfig
from components.training.memory import RUNTIME_BYTES, MicroBatch, _projector_activations, memory_of
from components.training.optimizer import MasterWeightAdamW
from tests.support.model_config import CONFIG, changed
from tests.support.model_samples import IMAGE, IMAGE_TOKEN, pixel_values
from tests.support.peak_memory import PeakMemory
from tests.support.projector_shapes import SHAPES, inputs

SAMPLES, LENGTH, ANSWERS = 4, 128, 24
BATCH = MicroBatch(tokens=SAMPLES * LENGTH, answers=SAMPLES * ANSWERS, images=SAMPLES)
RECIPE = {
    "prompt_format": "instruct",
    "iterations": 1,
    "global_batch_size": SAMPLES,
    "sequence_length": BATCH.tokens,
    "learning_rate": 1e-3,
    "min_learning_rate": 0,
    "save_interval": 1,
    "train_vision": False,
    "train_language": True,
}
WIDE = {"hidden_size": 64, "ffn_hidden_size": 192, "num_attention_heads": 8, "num_query_groups": 2, "kv_channels": 8}
PLAIN: dict[str, Any] = {}
NORMED = {"qk_norm": True, "family": "qwen3"}
TIED = {"tied_embeddings": True, "qkv_bias": True, "family": "qwen2"}


@pytest.fixture(autouse=True)
def processes() -> Iterator[None]:
    with single_process():
        yield


def model_config(**language: Any) -> ModelConfig:
    return changed(CONFIG, language={**CONFIG.language.model_dump(), **WIDE, "num_layers": 4, **language})


def settings(memory: dict[str, Any] | None = None, **recipe: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"recipe": {**RECIPE, **recipe}, "memory": memory or {}})


def batch() -> PackedBatch:
    """Samples of one length: their grid has no padding, as `fused=False` takes it."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for number in range(SAMPLES):
        words = torch.randint(IMAGE_TOKEN + 2, 330, (LENGTH - IMAGE.tokens,), generator=generator)
        tokens = torch.cat([torch.full((IMAGE.tokens,), IMAGE_TOKEN), words])
        labels = tokens.roll(-1)
        labels[: LENGTH - ANSWERS] = -100
        pixels = torch.randint(0, 256, (1, 3, IMAGE.size, IMAGE.size), generator=generator).to(torch.uint8)
        samples.append(EncodedSample(str(number), tokens, labels, pixels, torch.full((1, 2), IMAGE.size)))
    (packed,) = pack(samples, LENGTH * SAMPLES)
    return packed


def built(config: ModelConfig, training: TrainingConfig) -> VisionLanguageModel:
    dtype = torch.bfloat16 if training.recipe.precision == "bf16" else torch.float32
    model = build_model(config, init_seed=1, dtype=dtype, recompute=training.memory.recompute)
    model.freeze(set(get_args(Part)) - training.recipe.trained_parts)
    return model


TRAINED = [
    {"train_language": False},
    {"train_language": True},
    {"train_language": True, "train_vision": True},
]


@pytest.mark.parametrize("trained", TRAINED, ids=["projector", "language", "everything"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("language", [PLAIN, NORMED], ids=["plain", "normed"])
def test_what_the_backward_pass_needs(trained: dict[str, Any], recompute: str, language: dict[str, Any]) -> None:
    config, training = model_config(**language), settings({"recompute": recompute}, **trained)
    model = built(config, training)
    packed = batch()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(packed, pixel_values(packed), compute_loss=True)
    found = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    estimate = memory_of(config, training, BATCH, fused=False)
    assert estimate.activations + estimate.logits == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("name", SHAPES)
def test_what_the_backward_pass_needs_of_a_projector_of_any_shape(name: str) -> None:
    config = SHAPES[name]
    projector = build_model(config, init_seed=1).vision_projection
    parameters = {parameter.untyped_storage().data_ptr() for parameter in projector.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    features, _ = inputs(1, config)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        projector(features)
    found = sum(size for place, size in saved.items() if place not in parameters)
    shown = MicroBatch(tokens=0, answers=0, images=len(features))
    assert _projector_activations(config, shown, size=4) == found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("trained", TRAINED, ids=["projector", "language", "everything"])
@pytest.mark.parametrize("language", [PLAIN, TIED], ids=["plain", "tied"])
def test_what_is_there_all_the_time(precision: str, trained: dict[str, Any], language: dict[str, Any]) -> None:
    config, training = model_config(**language), settings(precision=precision, **trained)
    model = built(config, training)
    optimizer = MasterWeightAdamW(model, training.recipe)
    packed = batch()
    pixels = pixel_values(packed).to(next(model.parameters()).dtype)
    model(packed, pixels, compute_loss=True).sum().backward()
    gradients = optimizer._take_gradients()
    estimate = memory_of(config, training, BATCH)
    arriving = 0
    if precision == "bf16":
        largest = max(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        arriving = 2 * largest * (2 if language and training.recipe.train_language else 1)
    assert estimate.gradients - arriving == sum(gradient.nbytes for gradient in gradients)
    assert estimate.weights == sum(parameter.nbytes for parameter in model.parameters())
    states = [tensor for index in optimizer.masters for tensor in optimizer._tensors(index).values()]
    assert estimate.optimizer == sum(tensor.nbytes for tensor in states)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("trained", TRAINED[:2], ids=["projector", "language"])
def test_peak_of_a_step(recompute: str, trained: dict[str, Any]) -> None:
    config, training = model_config(), settings({"recompute": recompute}, **trained)
    model = built(config, training)
    optimizer = MasterWeightAdamW(model, training.recipe)
    packed = batch()
    pixels = pixel_values(packed)
    optimizer.step(1e-3)  # makes the moments
    memory = PeakMemory()
    states = [tensor for index in optimizer.masters for tensor in optimizer._tensors(index).values()]
    for tensor in (*model.parameters(), *states):
        memory.count(tensor)
    with memory:
        features = model.vision_features(pixels)
        for _ in range(2):  # the second finds the gradients of the first
            loss = model(packed, features=features, compute_loss=True).sum()
            loss.backward()
            del loss
        optimizer.step(1e-3)
    estimate = memory_of(config, training, BATCH, fused=False)
    assert estimate.total - RUNTIME_BYTES == pytest.approx(memory.peak, rel=0.1)
