"""Marks of pictures in questions and options: `<image 2>` is where the second of a question's pictures stands, as in MMMU."""

import re
from collections.abc import Sequence

from components.data.conversation import IMAGE_MARKER

_MARK = re.compile(r"<image (\d+)>")
_MARKS_AT_AN_END = re.compile(r"^\s*(<image \d+>\s*)+|(\s*<image \d+>)+\s*$")


def marked_pictures(text: str) -> list[int]:
    """Return the numbers of the pictures that a text has marks of, in order, from 1; one with two marks stands twice."""
    return [int(number) for number in _MARK.findall(text)]


def without_marks(text: str) -> str:
    """Return a text without marks, and without blanks around those at its ends; all others stay."""
    return _MARK.sub("", _MARKS_AT_AN_END.sub("", text))


def with_known_marks(text: str, pictures: int) -> str:
    """Return a text without the marks of pictures that a question does not have."""
    return _MARK.sub(lambda mark: mark[0] if 1 <= int(mark[1]) <= pictures else "", text)


def in_place(prompt: str, pictures: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return what is asked about pictures that stand where their marks are.

    Args:
        prompt: The human turn, with marks.
        pictures: All pictures of the question.

    Returns:
        The human turn with a marker `<image>` for every mark, and the pictures in the order of the markers. A turn without marks stays
        as it is, and shows all pictures.
    """
    numbers = marked_pictures(prompt)
    if not numbers:
        return prompt, tuple(pictures)
    return _MARK.sub(IMAGE_MARKER, prompt.replace(IMAGE_MARKER, "")), tuple(pictures[number - 1] for number in numbers)
