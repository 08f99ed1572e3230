"""An entry of a LLaVA annotation file: the picture that it names, and whether its text can be stored. Light on imports."""

import json
from typing import Any

from components.data.names import canonical_name
from components.errors import InputError


def named_pictures(entry: Any) -> tuple[str, ...]:
    """Return the names of the pictures that an entry is about, in their one spelling; none for a text.

    `"image"` may be missing, null, empty or an empty list: then there is none. It is a name, or a list of names.

    Raises:
        InputError: The entry is no JSON object, or `image` is something else.
    """
    if not isinstance(entry, dict):
        raise InputError(f"an entry must be a JSON object, this is a {type(entry).__name__}")
    image = entry.get("image")
    if image is None or image == "":
        return ()
    names = image if isinstance(image, list) else [image]
    if names == [None] or names == [""]:
        return ()
    for name in names:
        if not isinstance(name, str) or not name:
            raise InputError(
                f"`image` must be the path of a picture or a list of such, not {printable(repr(name))[:80]}"
            )
    return tuple(canonical_name(name) for name in names)


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
