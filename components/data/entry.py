"""An entry of a LLaVA annotation file: the picture that it names, and whether its text can be stored. Light on imports."""

import json
from typing import Any

from components.data.names import canonical_name
from components.errors import InputError


def named_picture(entry: Any) -> str | None:
    """Return the name of the picture that an entry is about, in its one spelling; None for a text without one.

    `"image"` may be missing, null, empty or an empty list: then there is none. A list of one means that picture.

    Raises:
        InputError: The entry is no JSON object, or `image` is something else.
    """
    if not isinstance(entry, dict):
        raise InputError(f"an entry must be a JSON object, this is a {type(entry).__name__}")
    image = entry.get("image")
    if isinstance(image, list) and len(image) <= 1:
        image = image[0] if image else None
    if image is None or image == "":
        return None
    if isinstance(image, list):
        raise InputError(f"`image` lists {len(image)} pictures; several pictures per entry are not supported")
    if not isinstance(image, str):
        raise InputError(f"`image` must be the path of a picture, this is a {type(image).__name__}")
    return canonical_name(image)


def check_text(value: Any) -> None:
    """Refuse text that can't be stored as UTF-8: half of a surrogate pair, as texts have it that were cut within an emoji.

    Args:
        value: Anything that came out of JSON.

    Raises:
        InputError: It holds such text.
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        before = text[max(0, error.start - 20) : error.start]
        raise InputError(
            f"its text holds half of a surrogate pair (\\u{ord(text[error.start]):04x}) after {before!r}: it was cut within a character"
        ) from error


def printable(text: str) -> str:
    """Return a text that can be written anywhere: half of a surrogate pair is spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()
