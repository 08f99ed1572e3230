"""LLaVA conversations: their layout, checked and taken apart. Light on imports: the conversion's processes use it too."""

from collections.abc import Mapping, Sequence
from typing import Any

from components.errors import InputError

IMAGE_MARKER = "<image>"
SYSTEM = "system"
HUMAN = "human"
MODEL = "gpt"


def conversation_pairs(conversation: Sequence[Mapping[str, Any]], has_image: bool) -> list[tuple[str, str]]:
    """Return the (human text, answer) pairs of a LLaVA conversation, with image markers removed and text stripped.

    Args:
        conversation: Turns `{"from": "human" | "gpt", "value": text}`, alternating, the first by the human, the last by
            the model. A turn from "system" may stand before them; `system_text` returns it.
        has_image: Whether a picture belongs to it; a marker is not needed then.

    Raises:
        InputError: Another layout, an empty answer, a marker without a picture, or markers of several pictures.
    """
    turns = _turns(conversation)
    if not turns or len(turns) % 2:
        raise InputError("a conversation must be a list of human and gpt turns in pairs")
    first = len(conversation) - len(turns)
    texts = [_turn_text(turn, MODEL if number % 2 else HUMAN, first + number) for number, turn in enumerate(turns)]
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


def system_text(conversation: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a conversation's leading system turn, without markers and stripped; empty if it has none.

    Raises:
        InputError: The system turn has no text.
    """
    if len(_turns(conversation)) == len(conversation):
        return ""
    return without_marker(_turn_text(conversation[0], SYSTEM, 0))


def without_marker(text: str) -> str:
    """Return the text without image markers and without blanks around it."""
    return text.replace(IMAGE_MARKER, "").strip()


def _turn_text(turn: Any, role: str, number: int) -> str:
    if not isinstance(turn, Mapping) or turn.get("from") != role or not isinstance(turn.get("value"), str):
        raise InputError(f'turn {number + 1} of the conversation must be {{"from": "{role}", "value": text}}')
    return str(turn["value"])


def _turns(conversation: Any) -> Sequence[Any]:
    """Return the turns without the leading system turn."""
    if not isinstance(conversation, Sequence) or isinstance(conversation, str):
        raise InputError("a conversation must be a list of human and gpt turns in pairs")
    has_system = bool(conversation) and isinstance(conversation[0], Mapping) and conversation[0].get("from") == SYSTEM
    return conversation[1:] if has_system else conversation
