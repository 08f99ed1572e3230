"""Prompt templates: which fields they may use, and the letters of options."""

import string
from collections.abc import Sequence

LETTERS = string.ascii_uppercase
"""Letters of options, in order."""


def check_fields(where: str, template: str, known: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Check that a template uses all known fields and none but optional ones beside them, without conversions or indices.

    Raises:
        ValueError: It does not.
    """
    used = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    if used - set(optional) != set(known):
        expected = ", ".join(f"{{{field}}}" for field in known)
        raise ValueError(f"{where}: must use {expected}, each; it uses {', '.join(sorted(used)) or 'none'}")


def lettered(options: Sequence[str]) -> list[tuple[str, str]]:
    """Return every option with its letter.

    Raises:
        ValueError: There are more options than letters.
    """
    if len(options) > len(LETTERS):
        raise ValueError(f"{len(options)} options, but letters for only {len(LETTERS)}")
    return list(zip(LETTERS, options, strict=False))


def option_lines(option: str, options: Sequence[str]) -> str:
    """Return one line for every option, from a template with `{letter}` and `{text}`.

    Raises:
        ValueError: There are more options than letters.
    """
    return "\n".join(option.format(letter=letter, text=text) for letter, text in lettered(options))
