"""Packed samples for model tests, and what is measured on them; free of transformers, so that workers start fast."""

from dataclasses import replace

import torch
from torch import Tensor

from components.data.image import normalise
from components.data.image_settings import ImageSettings
from components.data.packing import EncodedSample, PackedBatch, pack
from components.model.decoding import generate
from components.model.distributed import seed_everything
from components.model.sampling_settings import Sampling
from components.model.vlm import VisionLanguageModel, gather_logits

VOCABULARY = 330  # not a multiple of 8: padding is part of every test
IMAGE = ImageSettings(size=24, patch=8)
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "<pad>"]
IMAGE_TOKEN = SPECIAL_TOKENS.index("[IMG]")
FIRST_TEXT_TOKEN = len(SPECIAL_TOKENS)
TOLERANCE = 1e-5
NEW_TOKENS = 3


def samples(seed: int = 0, image: ImageSettings = IMAGE) -> list[EncodedSample]:
    """Two samples with a picture, one with two, one without, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    # Of their own, so that words don't depend on the size of the pictures.
    pictures_generator = torch.Generator().manual_seed(seed)
    made = []
    for number, (pictures, text) in enumerate([(1, 9), (2, 14), (0, 11), (1, 20)]):
        words = torch.randint(FIRST_TEXT_TOKEN, VOCABULARY, (text,), generator=generator)
        picture_tokens = torch.full((image.tokens,), IMAGE_TOKEN)
        parts = [words[:2]]
        for picture in range(pictures):
            parts += [picture_tokens, words[2 + picture : 3 + picture]]
        tokens = torch.cat([*parts, words[2 + pictures :]])
        labels = tokens.roll(-1)
        labels[-1] = -100
        labels[: tokens.numel() // 2] = -100
        labels[labels == IMAGE_TOKEN] = -100
        shape = (pictures, 3, image.size, image.size)
        pixels = torch.randint(0, 256, shape, generator=pictures_generator).to(torch.uint8)
        valid = torch.full((pictures, 2), image.size)
        made.append(EncodedSample(key=str(number), tokens=tokens, labels=labels, pixels=pixels, valid=valid))
    return made


def prompts(count: int, image: ImageSettings = IMAGE) -> list[EncodedSample]:
    """Return prompts of different lengths, with one, two and no pictures."""
    drawn = [sample for seed in range(-(-count // 4)) for sample in samples(100 + seed, image)]
    return [replace(sample, key=str(number)) for number, sample in enumerate(drawn[:count])]


def packed(chosen: list[EncodedSample]) -> PackedBatch:
    """All samples in one sequence."""
    (batch,) = pack(chosen, sequence_length=sum(sample.length for sample in chosen))
    return batch


def pixel_values(batch: PackedBatch | EncodedSample, image: ImageSettings = IMAGE) -> Tensor:
    """The vision tower's input."""
    return normalise(batch.pixels, batch.valid, image)


def measure(model: VisionLanguageModel, dropout_model: VisionLanguageModel) -> dict[str, object]:
    """Compute what must not depend on the tensor-parallel size."""
    batch = packed(samples())
    pixels = pixel_values(batch)
    model.eval()
    with torch.no_grad():
        logits = gather_logits(model(batch, pixels))
    losses = model(batch, pixels, compute_loss=True)
    losses.sum().backward()
    replicated = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if not getattr(parameter, "tensor_model_parallel", False)
    }
    split = torch.stack(
        [p.grad.square().sum() for p in model.parameters() if getattr(p, "tensor_model_parallel", False)]
    ).sum()
    torch.distributed.all_reduce(split)
    settings = {"end_tokens": [-1], "max_new_tokens": NEW_TOKENS}
    drawn = generate(model, samples(), sampling=Sampling(temperature=1.5, top_k=50, top_p=0.9), **settings)
    seed_everything(3)
    dropout_losses = dropout_model(batch, pixels, compute_loss=True).detach()
    return {
        "logits": logits,
        "losses": losses.detach(),
        "replicated_gradients": replicated,
        "split_gradient_squares": split,
        "decoded": torch.tensor(generate(model, samples(), **settings)),
        "drawn": torch.tensor(drawn),
        "dropout_losses": dropout_losses,
    }
