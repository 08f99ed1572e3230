"""Captions: a picture and what it shows; several captions of a picture are several samples."""

import re
from typing import Any

from components.errors import InputError
from components.sources.layouts.layout import Cells, image_column
from components.sources.sample import CAPTION_PROMPT, Sample, make_sample, pictures_of

_CAPTIONS = re.compile(r"(captions?|texts?|sentences?|alt_?text|description)(_?\d+)?", re.IGNORECASE)
_INSIDE = ("raw", "caption", "text")


class Captions:
    """`caption`, `text` and the like; a list of them; or a column each (`caption_0` to `caption_4`)."""

    name = "captions"
    about = "image, caption | text: one, a list, or a column each"

    def columns(self, row: Cells) -> tuple[str, ...] | None:
        """Recognise a picture beside captions."""
        images, captions = image_column(row), _caption_columns(row)
        return (images, *captions) if images and captions else None

    def samples(self, row: Cells) -> list[Sample]:
        """Return a sample for each caption."""
        images = image_column(row)
        pictures = pictures_of(row[images]) if images else []
        return caption_samples(pictures, [text for name in _caption_columns(row) for text in texts_of(row[name])])


def caption_samples(pictures: Any, captions: list[str]) -> list[Sample]:
    """Return a sample for each different caption of a picture.

    Raises:
        InputError: There is no picture, or no caption.
    """
    different = list(dict.fromkeys(text.strip() for text in captions if text.strip()))
    if not different:
        raise InputError("there is no caption")
    if len(pictures) != 1:
        raise InputError(f"a caption belongs to one picture, there are {len(pictures)}")
    return [make_sample(pictures, [(CAPTION_PROMPT, text)]) for text in different]


def texts_of(value: Any) -> list[str]:
    """Return the texts of a cell: one, those of a list, or those of objects that hold them.

    Raises:
        InputError: It holds something else.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in texts_of(item)]
    if isinstance(value, dict) and any(name in value for name in _INSIDE):
        return texts_of(next(value[name] for name in _INSIDE if name in value))
    raise InputError(f"a caption must be a text or a list of texts, not {type(value).__name__}")


def _caption_columns(row: Cells) -> list[str]:
    """Return the caption columns, those of the first kind alone: a `text` beside `caption` is something else."""
    found = [(match[1].lower(), name) for name in row if (match := _CAPTIONS.fullmatch(name))]
    kinds = [kind for kind, _ in found]
    best = next((kind for kind in ("caption", "captions") if kind in kinds), kinds[0] if kinds else "")
    return [name for kind, name in found if kind == best]
