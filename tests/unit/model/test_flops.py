"""The operations of a step, against torch's count of what the real model runs."""

from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from components.data.image_settings import ImageSettings
from components.data.packing import EncodedSample, PackedBatch, pack
from components.model.config import Part
from components.model.distributed import single_process
from components.model.flops import Work, backward_flops, forward_flops
from components.model.vlm import build_model
from tests.support.model_config import CONFIG, changed
from tests.support.model_samples import IMAGE, IMAGE_TOKEN, pixel_values

LENGTH = 30
SAMPLES = 3


@pytest.fixture(autouse=True)
def processes() -> Iterator[None]:
    with single_process():
        yield


def batch(image: ImageSettings = IMAGE) -> PackedBatch:
    """Samples of one length: torch counts the whole square of an attention that has no padding."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for number in range(SAMPLES):
        words = torch.randint(IMAGE_TOKEN + 2, 330, (LENGTH - image.tokens,), generator=generator)
        tokens = torch.cat([torch.full((image.tokens,), IMAGE_TOKEN), words])
        labels = tokens.roll(-1)
        labels[: image.tokens + 2 + number] = -100
        pixels = torch.randint(0, 256, (1, 3, IMAGE.size, IMAGE.size), generator=generator).to(torch.uint8)
        samples.append(EncodedSample(str(number), tokens, labels, pixels, torch.full((1, 2), IMAGE.size)))
    (packed,) = pack(samples, LENGTH * SAMPLES)
    return packed


def work(pairs_of_a_sample: int, image: ImageSettings = IMAGE) -> Work:
    packed = batch(image)
    answers = int((packed.labels != -100).sum())
    return Work(tokens=LENGTH * SAMPLES, pairs=SAMPLES * pairs_of_a_sample, answers=answers, images=SAMPLES)


@pytest.mark.parametrize(
    "trained",
    [{"projection"}, {"projection", "language"}, {"language"}, {"vision"}, {"projection", "language", "vision"}],
    ids=lambda parts: "+".join(sorted(parts)),
)
def test_torch_counts_the_same(trained: set[Part]) -> None:
    model = build_model(CONFIG, init_seed=1)
    model.freeze(set(get_args(Part)) - trained)
    packed = batch()
    # torch's count knows no causal mask, ours does: it is given the whole square.
    square = work(LENGTH**2)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss = model(packed, pixel_values(packed), compute_loss=True).sum()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    assert forward_flops(CONFIG, square) == forward.get_total_flops()
    # megatron-core's linear layers also compute the gradient of an input that nobody asks for: here, of the features.
    features = 2 * SAMPLES * IMAGE.tokens * CONFIG.vision.hidden_size * CONFIG.projector.ffn_hidden_size
    in_vain = features if "projection" in trained and "vision" not in trained else 0
    assert backward_flops(CONFIG, square, trained) + in_vain == backward.get_total_flops()


@pytest.mark.parametrize("trained", [{"projection"}, {"projection", "vision"}], ids=len)
def test_torch_counts_the_same_of_a_deep_projector_on_squares_of_patches(trained: set[Part]) -> None:
    image = IMAGE.model_copy(update={"pixel_shuffle": 3})
    config = changed(CONFIG, image=image, projector={"depth": 3, "ffn_hidden_size": 40, "bias": True})
    model = build_model(config, init_seed=1)
    model.freeze(set(get_args(Part)) - trained)
    packed, square = batch(image), work(LENGTH**2, image)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss = model(packed, pixel_values(packed), compute_loss=True).sum()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    assert forward_flops(config, square) == forward.get_total_flops()
    in_vain = 0 if "vision" in trained else 2 * SAMPLES * 1 * (32 * 9) * 40
    assert backward_flops(config, square, trained) + in_vain == backward.get_total_flops()


def test_causal_attention_is_about_half_of_the_square() -> None:
    causal, square = work(LENGTH * (LENGTH + 1) // 2), work(LENGTH**2)
    language = CONFIG.language
    width = language.num_attention_heads * language.kv_channels
    left_out = SAMPLES * LENGTH * (LENGTH - 1) // 2
    difference = forward_flops(CONFIG, square) - forward_flops(CONFIG, causal)
    assert difference == 4 * left_out * width * language.num_layers


def test_a_large_model_takes_six_operations_per_weight_and_token() -> None:
    # The rule of thumb, for weights that are all trained: 2 forward, 4 backward; attention apart.
    wide = CONFIG.language.model_copy(update={"hidden_size": 4096, "ffn_hidden_size": 14336})
    config = CONFIG.model_copy(update={"language": wide})
    tokens = 1000
    only_tokens = Work(tokens=tokens, pairs=0, answers=0, images=0)
    weights = wide.num_layers * (3 * 4096 * 14336 + 4096 * 16 * (4 + 4 + 2 + 2))
    total = forward_flops(config, only_tokens) + backward_flops(config, only_tokens, {"language"})
    assert total == 6 * weights * tokens
