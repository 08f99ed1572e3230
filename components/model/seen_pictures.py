"""What the vision tower sees of the pictures of prompts: each distinct picture once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from components.data.image import normalise
from components.data.packing import EncodedSample
from components.model.vlm import VisionLanguageModel


@dataclass(frozen=True)
class SeenPictures:
    """What the vision tower sees of the pictures of some prompts.

    Attributes:
        features: `VisionLanguageModel.vision_features` of the distinct pictures; None without any.
        rows: For every picture of the prompts in order its row of `features`.
    """

    features: Tensor | None
    rows: Sequence[int]


def see_pictures(model: VisionLanguageModel, prompts: Sequence[EncodedSample]) -> SeenPictures:
    """Let the vision tower look at every distinct picture of some prompts."""
    rows, distinct = distinct_pictures(prompts)
    if not distinct:
        return SeenPictures(None, ())
    device = model.language_model.embedding.word_embeddings.weight.device
    pixels = torch.cat([prompt.pixels for prompt in prompts])[distinct].to(device)
    valid = torch.cat([prompt.valid for prompt in prompts])[distinct].to(device)
    return SeenPictures(model.vision_features(normalise(pixels, valid, model.architecture.image)), rows)


def distinct_pictures(prompts: Sequence[EncodedSample]) -> tuple[list[int], list[int]]:
    """Find pictures that several prompts show.

    Returns:
        For every picture of the prompts in order the row of its encoding, and for every row the first such picture.
    """
    rows: list[int] = []
    distinct: list[int] = []
    seen: dict[bytes, int] = {}
    for prompt in prompts:
        for pixels, valid in zip(prompt.pixels, prompt.valid, strict=True):
            content = valid.numpy().tobytes() + pixels.numpy().tobytes()
            if content not in seen:
                seen[content] = len(distinct)
                distinct.append(len(rows))
            rows.append(seen[content])
    return rows, distinct


def rows_of_prompts(
    model: VisionLanguageModel, prompts: Sequence[EncodedSample], rows: Sequence[int]
) -> list[Sequence[int]]:
    """Return for every prompt the rows of its pictures."""
    tokens, image_token = model.architecture.image.tokens, model.architecture.image_token_id
    found: list[Sequence[int]] = []
    first = 0
    for prompt in prompts:
        after = first + int((prompt.tokens == image_token).sum()) // tokens
        found.append(rows[first:after])
        first = after
    return found
