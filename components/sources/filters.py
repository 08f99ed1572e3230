"""Which samples a dataset's filters leave out, and why."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from components.data.conversation import MODEL
from components.sources.config import Filters
from components.sources.sample import Turn


def score_cause(filters: Filters, row: Mapping[str, Any]) -> str:
    """Return the score that leaves a row out, as "score relevance_min"; empty if none does."""
    for column, least in filters.scores.items():
        values = _numbers(row.get(column))
        if not values or min(values) < least:
            return f"score {column}"
    return ""


def text_cause(filters: Filters, conversation: Sequence[Turn]) -> str:
    """Return "min_text" or "max_text" if the length of a conversation leaves it out; else an empty text."""
    if sum(len(turn["value"].strip()) for turn in conversation if turn["from"] == MODEL) < filters.min_text:
        return "min_text"
    if filters.max_text is not None and sum(len(turn["value"].strip()) for turn in conversation) > filters.max_text:
        return "max_text"
    return ""


def picture_cause(filters: Filters, pictures: Sequence[bytes]) -> str:
    """Return "min_side" or "max_aspect" if the size of a picture leaves a sample out; else an empty text.

    A picture whose header can't be read leaves nothing out here: that it is broken is found, and counted, later.
    """
    if not filters.looks_at_pictures:
        return ""
    for content in pictures:
        size = picture_size(content)
        if size is None:
            continue
        if min(size) < filters.min_side:
            return "min_side"
        if filters.max_aspect is not None and max(size) > filters.max_aspect * min(size):
            return "max_aspect"
    return ""


def picture_size(content: bytes) -> tuple[int, int] | None:
    """Return a picture's width and height in pixels by its header; None where that can't be read."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except Exception:  # decoders raise many kinds
        return None


def _numbers(value: Any) -> list[float]:
    if isinstance(value, list | tuple):
        return [number for item in value for number in _numbers(item)]
    if isinstance(value, str):
        try:
            return [float(value)]
        except ValueError:
            return []
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []
