"""Prompt formats: from a LLaVA conversation to tokens, labels and pixels.

Formats:

- "plain" (LLaVA's pretraining): the picture, then the caption; the human turn is dropped, and a system turn too.
- "instruct": the model's own chat template, as the tokenizer's folder holds it.

Every answer token and the token that ends an answer are trained, the first answer token included. docs/prompts.md shows
what the families' templates make of a conversation, and where other projects' formats differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from components.data.conversation import Conversation, Turn, place_pictures, read_conversation
from components.data.image import preprocess
from components.data.image_settings import ImageSettings
from components.data.packing import IGNORED_LABEL, EncodedSample
from components.data.prompt_text import PromptFormat
from components.data.skeleton import Piece, Shape, skeleton
from components.data.tokenizer import ChatTokenizer, Encoded
from components.errors import InputError


def encode_conversation(
    conversation: Sequence[Mapping[str, Any]],
    pictures: Sequence[Image.Image],
    *,
    tokenizer: ChatTokenizer,
    settings: ImageSettings,
    prompt_format: PromptFormat,
    key: str = "",
) -> EncodedSample:
    """Encode a conversation for training.

    Args:
        conversation: LLaVA turns; see `read_conversation`.
        pictures: Its pictures, in the order of their markers.
        tokenizer: The model's tokenizer.
        settings: How a picture enters the model.
        prompt_format: "plain" or "instruct".
        key: Name of the sample.

    Raises:
        InputError: The conversation has another layout, refers to other pictures than are given, or has several turns in
            the plain format.
    """
    read = read_conversation(conversation, len(pictures))
    if prompt_format == "plain" and len(read.turns) > 1:
        raise InputError(f"The plain format takes one caption, this conversation has {len(read.turns)}; use instruct.")
    if prompt_format == "plain":
        pieces, texts = tokenizer.caption_pieces(len(pictures), answered=True), [read.turns[0].answer]
    else:
        pieces, texts = _chat(read, tokenizer, answered=True)
    encoded = tokenizer.encode_pieces(pieces, texts, settings.tokens)
    tokens = torch.tensor(encoded.ids)
    labels = torch.full_like(tokens, IGNORED_LABEL)
    labels[:-1] = torch.where(torch.tensor(encoded.trained[1:]), tokens[1:], IGNORED_LABEL)
    pixels, valid = _pixels(pictures, settings)
    return EncodedSample(key=key, tokens=tokens, labels=labels, pixels=pixels, valid=valid)


def encode_prompt(
    question: str,
    pictures: Sequence[Image.Image],
    *,
    tokenizer: ChatTokenizer,
    settings: ImageSettings,
    prompt_format: PromptFormat,
    key: str = "",
) -> EncodedSample:
    """Encode what stands before the answer, for generation: the same tokens that training puts before it.

    Args:
        question: Human text, with markers `<image>` as in training; dropped in the plain format.
        pictures: Its pictures, in the order of their markers.
        tokenizer: The model's tokenizer.
        settings: How a picture enters the model.
        prompt_format: "plain" or "instruct".
        key: Name of the sample.

    Returns:
        A sample whose labels are all -100; the next token after its last is the answer's first.

    Raises:
        InputError: The text has markers, but not one for every picture.
    """
    encoded = prompt_tokens(
        question, len(pictures), tokenizer=tokenizer, image_tokens=settings.tokens, prompt_format=prompt_format
    )
    tokens = torch.tensor(encoded.ids)
    pixels, valid = _pixels(pictures, settings)
    untrained = torch.full_like(tokens, IGNORED_LABEL)
    return EncodedSample(key=key, tokens=tokens, labels=untrained, pixels=pixels, valid=valid)


def prompt_tokens(
    question: str, pictures: int, *, tokenizer: ChatTokenizer, image_tokens: int, prompt_format: PromptFormat
) -> Encoded:
    """Return the tokens of `encode_prompt`, for so many pictures that need not be there.

    Args:
        question: Human text, with markers.
        pictures: Number of pictures.
        tokenizer: The model's tokenizer.
        image_tokens: Tokens of a picture.
        prompt_format: "plain" or "instruct".

    Raises:
        InputError: The text has markers, but not one for every picture.
    """
    if prompt_format == "plain":
        return tokenizer.encode_pieces(tokenizer.caption_pieces(pictures, answered=False), [], image_tokens)
    (parts,) = place_pictures([question], pictures)
    pieces, texts = _chat(Conversation("", (Turn(parts, ""),)), tokenizer, answered=False)
    return tokenizer.encode_pieces(pieces, texts, image_tokens)


def _chat(
    conversation: Conversation, tokenizer: ChatTokenizer, *, answered: bool
) -> tuple[tuple[Piece, ...], list[str]]:
    """Return the pieces of a conversation in the model's chat template, and the texts that go into them."""
    shape = Shape(
        system=bool(conversation.system),
        humans=tuple(tuple("image" if part is None else "text" for part in turn.parts) for turn in conversation.turns),
        answered=answered,
    )
    texts = [conversation.system] if conversation.system else []
    for turn in conversation.turns:
        texts += [part for part in turn.parts if part is not None]
        texts += [turn.answer] if turn.answer else []
    return skeleton(tokenizer.dialect, shape), texts


def _pixels(pictures: Sequence[Image.Image], settings: ImageSettings) -> tuple[Tensor, Tensor]:
    if not pictures:
        return torch.empty(0, 3, settings.size, settings.size, dtype=torch.uint8), torch.empty(0, 2, dtype=torch.int64)
    made = [preprocess(picture, settings) for picture in pictures]
    return torch.stack([pixels for pixels, _ in made]), torch.tensor([valid for _, valid in made])
