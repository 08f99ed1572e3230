"""Prompt formats: from a LLaVA conversation to tokens, labels and pixels.

Formats:

- "plain" (LLaVA's pretraining): `<s> IMAGE caption </s>`; the human turn is dropped, and a system turn too.
- "instruct" (Mistral v3): `<s>[INST] IMAGE text[/INST] answer</s>[INST] text[/INST] answer</s>`; the picture stands at
  the front of the first human turn, wherever its `<image>` marker was. A system prompt stands before the text of the
  last human turn with a blank line between, as mistral-common encodes it for this version.

Every answer token and the `</s>` after it are trained, the first answer token included.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from components.data.conversation import IMAGE_MARKER, conversation_pairs, system_text, without_marker
from components.data.image import preprocess
from components.data.image_settings import ImageSettings
from components.data.packing import IGNORED_LABEL, EncodedSample
from components.data.prompt_text import PromptFormat
from components.data.tokenizer import ChatTokenizer
from components.errors import InputError


def encode_conversation(
    conversation: Sequence[Mapping[str, Any]],
    image: Image.Image | None,
    *,
    tokenizer: ChatTokenizer,
    settings: ImageSettings,
    prompt_format: PromptFormat,
    key: str = "",
) -> EncodedSample:
    """Encode a conversation for training.

    Args:
        conversation: LLaVA turns; see `conversation_pairs`.
        image: The picture, or None for a conversation of text alone.
        tokenizer: The model's tokenizer.
        settings: How the picture enters the model.
        prompt_format: "plain" or "instruct".
        key: Name of the sample.

    Raises:
        InputError: The conversation has another layout, refers to a picture that is not given, or has several turns in
            the plain format.
    """
    pairs = conversation_pairs(conversation, has_image=image is not None)
    system = system_text(conversation)
    if prompt_format == "plain" and len(pairs) > 1:
        raise InputError(f"The plain format takes one caption, this conversation has {len(pairs)}; use instruct.")
    tokens = [tokenizer.bos]
    trained = [False]
    for number, (human, answer) in enumerate(pairs):
        if system and number == len(pairs) - 1:
            human = f"{system}\n\n{human}"
        asked = _prompt_tokens(human, image is not None and number == 0, tokenizer, settings, prompt_format)
        answered = [*tokenizer.encode(answer), tokenizer.eos]
        tokens += asked + answered
        trained += [False] * len(asked) + [True] * len(answered)
    token_tensor = torch.tensor(tokens)
    labels = torch.full_like(token_tensor, IGNORED_LABEL)
    labels[:-1] = torch.where(torch.tensor(trained[1:]), token_tensor[1:], IGNORED_LABEL)
    pixels, valid = _pixels(image, settings)
    return EncodedSample(key=key, tokens=token_tensor, labels=labels, pixels=pixels, valid=valid)


def encode_prompt(
    question: str,
    image: Image.Image | None,
    *,
    tokenizer: ChatTokenizer,
    settings: ImageSettings,
    prompt_format: PromptFormat,
    key: str = "",
) -> EncodedSample:
    """Encode what stands before the answer, for generation: the same tokens that training puts before it.

    Args:
        question: Human text; dropped in the plain format, as in training.
        image: The picture, or None.
        tokenizer: The model's tokenizer.
        settings: How the picture enters the model.
        prompt_format: "plain" or "instruct".
        key: Name of the sample.

    Returns:
        A sample whose labels are all -100; the next token after its last is the answer's first.

    Raises:
        InputError: The text has markers of more than one picture.
    """
    if question.count(IMAGE_MARKER) > 1:
        raise InputError(f"The prompt of {key!r} refers to several pictures ({IMAGE_MARKER}); one is supported.")
    asked = _prompt_tokens(without_marker(question), image is not None, tokenizer, settings, prompt_format)
    tokens = torch.tensor([tokenizer.bos, *asked])
    pixels, valid = _pixels(image, settings)
    untrained = torch.full_like(tokens, IGNORED_LABEL)
    return EncodedSample(key=key, tokens=tokens, labels=untrained, pixels=pixels, valid=valid)


def _prompt_tokens(
    human: str, with_image: bool, tokenizer: ChatTokenizer, settings: ImageSettings, prompt_format: PromptFormat
) -> list[int]:
    image_tokens = [tokenizer.image] * settings.tokens if with_image else []
    if prompt_format == "plain":
        return image_tokens
    return [tokenizer.inst, *image_tokens, *tokenizer.encode(human), tokenizer.inst_end]


def _pixels(image: Image.Image | None, settings: ImageSettings) -> tuple[Tensor, Tensor]:
    if image is None:
        return torch.empty(0, 3, settings.size, settings.size, dtype=torch.uint8), torch.empty(0, 2, dtype=torch.int64)
    pixels, valid = preprocess(image, settings)
    return pixels.unsqueeze(0), torch.tensor([valid])
