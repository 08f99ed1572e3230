"""Greedy decoding of packed prompts with a key-value cache."""

from collections.abc import Sequence

import torch

from components.data.image import normalise
from components.data.packing import EncodedSample, pack
from components.model.vlm import VisionLanguageModel, gather_logits


@torch.no_grad()
def generate_greedy(
    model: VisionLanguageModel,
    prompts: Sequence[EncodedSample],
    *,
    end_token: int,
    max_new_tokens: int,
    device: torch.device,
) -> list[list[int]]:
    """Continue prompts with the most likely token each time; all tensor-parallel ranks call it and get the same.

    Prompts of different lengths are read as one packed sequence. The pictures are encoded once. A finished answer
    leaves the batch, so that the others do not pay for it.

    Args:
        model: The model, in evaluation mode.
        prompts: Encoded prompts.
        end_token: The token that ends an answer.
        max_new_tokens: Most tokens of an answer.
        device: Where the model lies.

    Returns:
        The tokens of every answer, without the end token.
    """
    if not prompts:
        return []
    batch = pack(prompts, sequence_length=sum(prompt.length for prompt in prompts))[0].to(device)
    image = model.architecture.image
    pixels = normalise(batch.pixels, batch.valid, image) if len(batch.pixels) else None
    logits, cache = model.start_decoding(batch, pixels, max_new_tokens)
    answers: list[list[int]] = [[] for _ in prompts]
    open_answers = list(range(len(prompts)))
    for step in range(max_new_tokens):
        tokens = gather_logits(logits).argmax(dim=-1)
        chosen = tokens.tolist()
        going_on = [place for place, token in enumerate(chosen) if token != end_token]
        for place in going_on:
            answers[open_answers[place]].append(chosen[place])
        if not going_on or step + 1 == max_new_tokens:
            break
        if len(going_on) < len(chosen):
            kept = torch.tensor(going_on, device=device)
            cache.keep(kept)
            tokens = tokens[kept]
            open_answers = [open_answers[place] for place in going_on]
        logits = model.decode(tokens, cache)
    return answers
