"""What a chat template writes around the texts of a conversation: rendered once for every shape, and filled in afterwards.

Texts of users and models never pass through the template: what they say can't change what it writes.
"""

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from components.data.chat_template import ChatTemplate
from components.errors import InputError

Part = Literal["text", "image"]

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # noncharacters: no template writes them
_SLOT = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


@dataclass(frozen=True)
class Shape:
    """A conversation without its texts.

    Attributes:
        system: Whether there is a system prompt.
        humans: What every human turn is made of, in order; an empty text is no part.
        answered: Whether every human turn has an answer; else the last has none: a prompt.
    """

    system: bool
    humans: tuple[tuple[Part, ...], ...]
    answered: bool

    @property
    def texts(self) -> int:
        """Number of texts: the system prompt, then turn by turn the human's and the answer."""
        answers = len(self.humans) if self.answered else len(self.humans) - 1
        return int(self.system) + answers + sum(parts.count("text") for parts in self.humans)


@dataclass(frozen=True)
class Piece:
    """A piece of what the model reads.

    Attributes:
        kind: "template" for what the template writes, "text" for a text of the conversation, "image" for a picture.
        text: The template's text; empty for the others.
        slot: Which text of the conversation; see `Shape.texts`.
        trained: Whether it is learnt.
    """

    kind: Literal["template", "text", "image"]
    text: str = ""
    slot: int = -1
    trained: bool = False


@dataclass(frozen=True)
class Dialect:
    """A chat template with the tokens that matter in it.

    Attributes:
        template: The template.
        image_token: What it writes for a picture.
        end_tokens: What may end an answer.
    """

    template: ChatTemplate
    image_token: str
    end_tokens: tuple[str, ...]


@lru_cache(maxsize=4096)
def skeleton(dialect: Dialect, shape: Shape) -> tuple[Piece, ...]:
    """Return what the model reads of a conversation of a shape.

    Learnt is of every answer what a model writes after the generation prompt: blanks that the template puts before the
    answer, the answer, and what ends it.

    Raises:
        InputError: The template refuses the shape, leaves a text or a picture out, or writes something else before an
            answer than it writes when the answer is asked for.
    """
    rendered = dialect.template.render(_messages(shape), add_generation_prompt=not shape.answered)
    slots = [(int(found[1]), found.start(), found.end()) for found in _SLOT.finditer(rendered)]
    if sorted(number for number, _, _ in slots) != list(range(shape.texts)):
        raise InputError(_lost(shape, [number for number, _, _ in slots]))
    pictures = rendered.count(dialect.image_token)
    expected = sum(parts.count("image") for parts in shape.humans)
    if pictures != expected:
        raise InputError(f"the chat template shows {pictures} of {expected} pictures ({dialect.image_token})")
    asking = _asking(dialect)
    answers = set(_answer_slots(shape))
    spans = [_trained_span(dialect, rendered, asking, begin, end) for number, begin, end in slots if number in answers]
    cuts = sorted({0, len(rendered), *(place for span in spans for place in span)})
    pieces: list[Piece] = []
    for begin, end in itertools.pairwise(cuts):
        pieces += _pieces(rendered[begin:end], dialect.image_token, trained=(begin, end) in spans)
    return tuple(pieces)


def end_token(dialect: Dialect) -> str:
    """Return the token that the template writes after an answer.

    Raises:
        InputError: It writes none.
    """
    last = [piece.text for piece in skeleton(dialect, Shape(False, (("text",),), True)) if piece.trained][-1]
    return last.strip()


def answer_lead(dialect: Dialect) -> str:
    """Return the blanks that the template puts before an answer."""
    first = next(piece for piece in skeleton(dialect, Shape(False, (("text",),), True)) if piece.trained)
    return first.text


def answer_tail(dialect: Dialect) -> str:
    """Return what the template puts after an answer, up to the token that ends it."""
    return [piece.text for piece in skeleton(dialect, Shape(False, (("text",),), True)) if piece.trained][-1]


def _messages(shape: Shape) -> list[dict[str, Any]]:
    numbers = iter(range(shape.texts))
    messages: list[dict[str, Any]] = []
    if shape.system:
        messages.append({"role": "system", "content": _slot(next(numbers))})
    for turn, parts in enumerate(shape.humans):
        content: Any = [
            {"type": "text", "text": _slot(next(numbers))} if part == "text" else {"type": "image"} for part in parts
        ]
        if "image" not in parts:
            content = content[0]["text"] if content else ""
        messages.append({"role": "user", "content": content})
        if shape.answered or turn + 1 < len(shape.humans):
            messages.append({"role": "assistant", "content": _slot(next(numbers))})
    return messages


def _slot(number: int) -> str:
    return f"{_OPEN}{number}{_CLOSE}"


def _answer_slots(shape: Shape) -> list[int]:
    slots, number = [], int(shape.system)
    for turn, parts in enumerate(shape.humans):
        number += parts.count("text")
        if shape.answered or turn + 1 < len(shape.humans):
            slots.append(number)
            number += 1
    return slots


@lru_cache(maxsize=32)
def _asking(dialect: Dialect) -> str:
    """Return what the template writes between a question and its answer, when the answer is asked for."""
    rendered = dialect.template.render([{"role": "user", "content": _slot(0)}], add_generation_prompt=True)
    return rendered.rpartition(_CLOSE)[2]


def _trained_span(dialect: Dialect, rendered: str, asking: str, begin: int, end: int) -> tuple[int, int]:
    """Return where what a model writes begins and ends, around an answer's slot."""
    start = begin
    while not rendered[:start].endswith(asking):
        if not start or not rendered[start - 1].isspace():
            raise InputError(
                f"the chat template writes something else before an answer of a conversation than {asking!r}, which it "
                "writes when that answer is asked for"
            )
        start -= 1
    after = rendered[end:]
    ending = after.lstrip()
    ends = [name for name in dialect.end_tokens if ending.startswith(name)]
    if not ends:
        raise InputError(
            f"the chat template writes {after[:40]!r} after an answer, none of the tokens that end one: "
            f"{', '.join(dialect.end_tokens)}"
        )
    return start, end + len(after) - len(ending) + max(map(len, ends))


def _pieces(text: str, image_token: str, *, trained: bool) -> list[Piece]:
    """Take rendered text apart."""
    pieces: list[Piece] = []
    place = 0
    for found in re.finditer(f"{_SLOT.pattern}|{re.escape(image_token)}", text):
        if found.start() > place:
            pieces.append(Piece("template", text[place : found.start()], trained=trained))
        if found[1] is None:
            pieces.append(Piece("image", trained=trained))
        else:
            pieces.append(Piece("text", slot=int(found[1]), trained=trained))
        place = found.end()
    if place < len(text):
        pieces.append(Piece("template", text[place:], trained=trained))
    return pieces


def _lost(shape: Shape, found: list[int]) -> str:
    roles = ["the system prompt"] if shape.system else []
    for turn, parts in enumerate(shape.humans, start=1):
        roles += [f"the text of question {turn}"] * parts.count("text") + [f"answer {turn}"]
    wrong = [f"{roles[slot]} {found.count(slot)} times" for slot in range(shape.texts) if found.count(slot) != 1]
    return f"the chat template writes {', '.join(wrong)} instead of once"
