"""What is known of a benchmark's own files."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.tasks.template import LETTERS

Row = dict[str, Any]
"""A row as it is published, or a line of a file of questions as `components/tasks` reads it."""


@dataclass(frozen=True)
class Annotations:
    """A benchmark as its authors publish it: annotations, and pictures apart from them.

    Attributes:
        files: What the names of the files match, where a folder is given.
        read: From a file's name and content to (line, name of its picture).
    """

    files: re.Pattern[str]
    read: Callable[[str, bytes], list[tuple[Row, str]]]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's files and rows.

    Attributes:
        files: What the names of the files match that hold its rows.
        row: From a published row and its number to a line without picture (a question; for captions `id`, `captions`,
            `domain`), or None for a row that is no part of the benchmark.
        pictures: Columns that hold a row's pictures; empty ones are left out.
        expected: The columns, for errors.
        captions: Whether it has captions, written in COCO's layout, and no questions.
        shared: Files, and their columns of a name and a picture, where pictures are apart from rows; a row's `picture` is
            the name then.
        more: From all lines to further files that are made of them: name of the file to its lines.
        annotated: How its authors' own annotations are read, whose pictures lie elsewhere; None where they are not.
    """

    files: re.Pattern[str]
    row: Callable[[Row, int], Row | None]
    pictures: tuple[str, ...] = ("image",)
    expected: str = ""
    captions: bool = False
    shared: tuple[re.Pattern[str], str, str] | None = None
    more: Callable[[Sequence[Row]], dict[str, list[Row]]] = field(default=lambda rows: {})
    annotated: Annotations | None = None


def text(value: Any) -> str:
    """Return a cell as text; empty where there is nothing, as pandas writes it, too."""
    return "" if value is None or value != value or str(value).strip().lower() in ("nan", "none") else str(value)


def letter(place: Any) -> str:
    """Return the letter of an option's number from 0.

    Raises:
        ValueError: There is no such letter.
    """
    number = int(place)
    if not 0 <= number < len(LETTERS):
        raise ValueError(f"the answer is option {number}")
    return LETTERS[number]


def first(value: Any) -> str:
    """Return a text, or the first of a list of texts."""
    return text(value[0] if value else "") if isinstance(value, list | tuple) else text(value)
