"""LLaVA conversations: their layout, checked and taken apart. Light on imports: the conversion's processes use it too."""

from collections.abc import Mapping, Sequence
from typing import Any

from components.errors import InputError

IMAGE_MARKER = "<image>"
HUMAN = "human"
MODEL = "gpt"


def conversation_pairs(conversation: Sequence[Mapping[str, Any]], has_image: bool) -> list[tuple[str, str]]:
    """Return the (human text, answer) pairs of a LLaVA conversation, with image markers removed and text stripped.

    Args:
        conversation: Turns `{"from": "human" | "gpt", "value": text}`, alternating, the first by the human, the last by
            the model.
        has_image: Whether a picture belongs to it; a marker is not needed then.

    Raises:
        InputError: Another layout, an empty answer, a marker without a picture, or markers of several pictures.
    """
    if not isinstance(conversation, Sequence) or not conversation or len(conversation) % 2:
        raise InputError("a conversation must be a list of human and gpt turns in pairs")
    texts = [_turn_text(turn, MODEL if number % 2 else HUMAN, number) for number, turn in enumerate(conversation)]
    humans, answers = texts[0::2], texts[1::2]
    markers = sum(text.count(IMAGE_MARKER) for text in humans)
    if markers > 1:
        raise InputError(f"the conversation refers to {markers} pictures ({IMAGE_MARKER}); one is supported")
    if markers and not has_image:
        raise InputError(f"the conversation refers to a picture ({IMAGE_MARKER}) but has none")
    pairs = [(without_marker(human), answer.strip()) for human, answer in zip(humans, answers, strict=True)]
    for number, (_, answer) in enumerate(pairs):
        if not answer:
            raise InputError(f"answer {number + 1} of the conversation is empty")
    return pairs


def without_marker(text: str) -> str:
    """Return the text without image markers and without blanks around it."""
    return text.replace(IMAGE_MARKER, "").strip()


def _turn_text(turn: Any, role: str, number: int) -> str:
    if not isinstance(turn, Mapping) or turn.get("from") != role or not isinstance(turn.get("value"), str):
        raise InputError(f'turn {number + 1} of the conversation must be {{"from": "{role}", "value": text}}')
    return str(turn["value"])
