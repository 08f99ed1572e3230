"""LLaVA conversations: their layout, checked and taken apart. Light on imports: the conversion's processes use it too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.errors import InputError

IMAGE_MARKER = "<image>"
SYSTEM = "system"
HUMAN = "human"
MODEL = "gpt"


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
        parts: What the human gives, in order: texts, and None for a picture. No text is empty or has blanks around it.
        answer: What the model says.
    """

    parts: tuple[str | None, ...]
    answer: str

    @property
    def text(self) -> str:
        """The human's text, without pictures."""
        return " ".join(part for part in self.parts if part is not None)


@dataclass(frozen=True)
class Conversation:
    """A conversation, taken apart.

    Attributes:
        system: The system prompt; empty without one.
        turns: Questions and answers.
    """

    system: str
    turns: tuple[Turn, ...]


def read_conversation(conversation: Sequence[Mapping[str, Any]], pictures: int) -> Conversation:
    """Take a LLaVA conversation apart.

    Args:
        conversation: Turns `{"from": "human" | "gpt", "value": text}`, alternating, the first by the human, the last by
            the model. A turn from "system" may stand before them. Markers `<image>` of human turns: see `place_pictures`.
        pictures: Number of pictures that belong to it.

    Raises:
        InputError: Another layout, an empty answer, or another number of markers than of pictures.
    """
    turns = _turns(conversation)
    if not turns or len(turns) % 2:
        raise InputError("a conversation must be a list of human and gpt turns in pairs")
    first = len(conversation) - len(turns)
    texts = [_turn_text(turn, MODEL if number % 2 else HUMAN, first + number) for number, turn in enumerate(turns)]
    humans, answers = place_pictures(texts[0::2], pictures), [text.strip() for text in texts[1::2]]
    for number, answer in enumerate(answers):
        if not answer:
            raise InputError(f"answer {number + 1} of the conversation is empty")
    pairs = tuple(Turn(parts, answer) for parts, answer in zip(humans, answers, strict=True))
    return Conversation(without_marker(_turn_text(conversation[0], SYSTEM, 0)) if first else "", pairs)


def place_pictures(humans: Sequence[str], pictures: int) -> list[tuple[str | None, ...]]:
    """Return the parts of human turns, see `Turn.parts`.

    One picture stands at the front of the first turn, as in LLaVA, wherever its marker is. Several stand where their
    markers are; without markers all stand at the front of the first turn.

    Args:
        humans: Their texts.
        pictures: Number of pictures of all of them.

    Raises:
        InputError: There are markers, but not one for every picture.
    """
    markers = _markers(humans, pictures)
    if pictures > 1 and markers:
        return [_parts(text) for text in humans]
    texts = [without_marker(text) for text in humans]
    placed: list[tuple[str | None, ...]] = [(text,) if text else () for text in texts]
    placed[0] = (*[None] * pictures, *placed[0])
    return placed


def parts_in_order(text: str, pictures: int) -> list[str | None]:
    """Return what a human turn gives to a model that takes pictures anywhere: texts, and None for a picture.

    Pictures stand where their markers are, a single one too; without markers all stand in front. Blanks between texts and pictures stay,
    but for those before the first text and after the last.

    Args:
        text: The turn.
        pictures: Number of its pictures.

    Raises:
        InputError: There are markers, but not one for every picture.
    """
    runs = text.split(IMAGE_MARKER) if _markers([text], pictures) else [""] * pictures + [text]
    told = [number for number, run in enumerate(runs) if run.strip()]
    if told:
        runs[told[0]] = runs[told[0]].lstrip()
        runs[told[-1]] = runs[told[-1]].rstrip()
    parts: list[str | None] = []
    for number, run in enumerate(runs):
        parts += [None] if number else []
        parts += [run] if run.strip() or (told and told[0] < number < told[-1] and run) else []
    return parts


def without_marker(text: str) -> str:
    """Return the text without image markers and without blanks around it."""
    return text.replace(IMAGE_MARKER, "").strip()


def _parts(text: str) -> tuple[str | None, ...]:
    parts: list[str | None] = []
    for number, run in enumerate(text.split(IMAGE_MARKER)):
        if number:
            parts.append(None)
        if run.strip():
            parts.append(run.strip())
    return tuple(parts)


def _markers(humans: Sequence[str], pictures: int) -> int:
    """Return the number of markers: none, or one for every picture."""
    markers = sum(text.count(IMAGE_MARKER) for text in humans)
    if markers and not pictures:
        raise InputError(f"the conversation refers to a picture ({IMAGE_MARKER}) but has none")
    if markers not in (0, pictures):
        raise InputError(
            f"the conversation refers to {_count(markers)} ({IMAGE_MARKER}) but has {pictures}: every picture needs a marker, "
            "or none does"
        )
    return markers


def _count(pictures: int) -> str:
    return "1 picture" if pictures == 1 else f"{pictures} pictures"


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
