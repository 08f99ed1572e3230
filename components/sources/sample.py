"""What a row becomes, whatever its layout: pictures, and a conversation that says where they stand."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from components.data.conversation import HUMAN, IMAGE_MARKER, MODEL, SYSTEM
from components.errors import InputError

CAPTION_PROMPT = "Give a short and clear explanation of the subsequent image."
"""What is asked where a dataset has captions and no questions; the plain format drops it."""

PictureRef = bytes | str
"""A picture: its bytes, or what its row says instead: a path beside the row's file, a URL, or a data URI."""

Turn = dict[str, str]


@dataclass(frozen=True)
class Sample:
    """A sample of a row.

    Attributes:
        pictures: In the order of their markers.
        conversation: LLaVA's turns: `{"from": "human" | "gpt", "value": text}`, perhaps after one from "system". The human
            turns have a marker `<image>` for every picture.
    """

    pictures: tuple[PictureRef, ...]
    conversation: list[Turn]


def make_sample(pictures: Sequence[PictureRef], pairs: Sequence[tuple[str, str]], system: str = "") -> Sample:
    """Return the sample of question and answer pairs.

    Args:
        pictures: The pictures.
        pairs: What the human and what the model says. Markers in the human texts say where the pictures stand; without any
            they stand at the front of the first.
        system: The system's text; empty for none.

    Raises:
        InputError: There are no pairs, an answer is empty, or markers and pictures differ in number.
    """
    if not pairs:
        raise InputError("the conversation has no turns")
    for number, (_, answer) in enumerate(pairs):
        if not answer.strip():
            raise InputError(f"answer {number + 1} of the conversation is empty")
    markers = sum(human.count(IMAGE_MARKER) for human, _ in pairs)
    humans = [human for human, _ in pairs]
    if not markers and pictures:
        humans[0] = f"{IMAGE_MARKER}\n" * len(pictures) + humans[0]
    elif markers != len(pictures):
        raise InputError(f"the conversation has {markers} markers {IMAGE_MARKER} for {len(pictures)} pictures")
    turns = [{"from": SYSTEM, "value": system}] if system.strip() else []
    for human, (_, answer) in zip(humans, pairs, strict=True):
        turns += [{"from": HUMAN, "value": human}, {"from": MODEL, "value": answer}]
    return Sample(tuple(pictures), turns)


def pairs_of(turns: Iterable[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
    """Take turns apart.

    Args:
        turns: Role ("system", "human" or "gpt") and text.

    Returns:
        The system's text, and the pairs.

    Raises:
        InputError: The roles don't alternate, or the last turn is the human's.
    """
    system, pairs, asked = "", [], None
    for number, (role, text) in enumerate(turns):
        if role == SYSTEM and number == 0:
            system = text
        elif role == HUMAN and asked is None:
            asked = text
        elif role == MODEL and asked is not None:
            pairs.append((asked, text))
            asked = None
        else:
            raise InputError(f"turn {number + 1} of the conversation is from {role}: human and model must take turns")
    if asked is not None:
        raise InputError("the last turn of the conversation is the human's: there is no answer to learn")
    return system, pairs


def pictures_of(value: Any) -> list[PictureRef]:
    """Return the pictures of a cell: none for None, an empty text and an empty list; one, or those of a list.

    Raises:
        InputError: It holds something else.
    """
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple):
        return [ref for item in value for ref in pictures_of(item)]
    return [picture_of(value)]


def picture_of(value: Any) -> PictureRef:
    """Return a picture as a row has it: bytes, a text, or an object with `bytes` and `path`, as `datasets` stores it.

    Raises:
        InputError: It is something else.
    """
    if isinstance(value, dict):
        inside = [value[name] for name in ("bytes", "path", "url") if value.get(name)]
        value = inside[0] if inside else None
    if isinstance(value, bytearray | memoryview):
        value = bytes(value)
    if isinstance(value, bytes | str) and value:
        return value
    raise InputError(f"a picture must be bytes, a path, a URL, or an object with them, not {type(value).__name__}")
