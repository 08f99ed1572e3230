"""What every layout tells, and how its cells are read."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from components.data.conversation import HUMAN, MODEL, SYSTEM
from components.errors import InputError
from components.sources.sample import Sample

IMAGE_COLUMNS = ("image", "images", "picture", "pictures", "img")
"""Names of the column with pictures, where layouts leave it open."""

ROLES = {
    "system": SYSTEM,
    "developer": SYSTEM,
    "human": HUMAN,
    "user": HUMAN,
    "gpt": MODEL,
    "assistant": MODEL,
    "model": MODEL,
    "chatgpt": MODEL,
    "bot": MODEL,
}
"""What speakers are called in conversations, to what LLaVA calls them."""

Cells = Mapping[str, Any]


class Layout(Protocol):
    """A layout.

    Attributes:
        name: Its name in settings and logs.
        about: What such rows look like, in a line.
    """

    name: str
    about: str

    def columns(self, row: Cells) -> tuple[str, ...] | None:
        """Recognise a row, which has a value in every column that any of the first rows has one in.

        Returns:
            The columns that the layout reads; None if it is another layout.
        """

    def samples(self, row: Cells) -> list[Sample]:
        """Return the samples of a row.

        Raises:
            InputError: The row is not as the layout says.
        """


def image_column(row: Cells) -> str | None:
    """Return the name of the column with pictures, or None."""
    return next((name for name in IMAGE_COLUMNS if name in row), None)


def as_list(value: Any, what: str) -> list[Any]:
    """Return a list as it is, or from the JSON that a text holds.

    Raises:
        InputError: It is neither.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InputError(f"{what} is a text that is not JSON: {error}") from None
    if not isinstance(value, list):
        raise InputError(f"{what} must be a list, not {type(value).__name__}")
    return value


def is_list_of(value: Any, *keys: str) -> bool:
    """Tell whether a cell is a list (or the JSON of one) whose first item is an object with these keys."""
    try:
        items = as_list(value, "it")
    except InputError:
        return False
    return bool(items) and isinstance(items[0], dict) and set(keys) <= set(items[0])


def text_of(value: Any, what: str) -> str:
    """Return a text.

    Raises:
        InputError: It is none.
    """
    if not isinstance(value, str):
        raise InputError(f"{what} must be a text, not {type(value).__name__}")
    return value


def role_of(value: Any) -> str:
    """Return what LLaVA calls a speaker.

    Raises:
        InputError: The speaker is unknown; tools are.
    """
    role = ROLES.get(value.lower()) if isinstance(value, str) else None
    if role is None:
        raise InputError(f"there is a turn from {value!r}; known are {', '.join(ROLES)}")
    return role
