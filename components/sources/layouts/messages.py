"""Chat messages: `role` and `content`, a text or a list of parts, in OpenAI's and in Hugging Face's spelling."""

import json
from typing import Any

from components.data.conversation import IMAGE_MARKER
from components.errors import InputError
from components.sources.layouts.layout import Cells, as_list, image_column, is_list_of, role_of
from components.sources.sample import PictureRef, Sample, make_sample, pairs_of, picture_of, pictures_of

_COLUMNS = ("messages", "conversations", "conversation", "chat")
_TEXT_PARTS = {"text", "input_text", "output_text"}
_IMAGE_PARTS = {"image", "image_url", "input_image"}


class Messages:
    """Pictures stand in the parts, or in a column of their own in the order of the parts that name none."""

    name = "messages"
    about = "messages: [{role, content: text | [{type: text | image | image_url, ...}]}], images"

    def columns(self, row: Cells) -> tuple[str, ...] | None:
        """Recognise messages with a role and content."""
        column = next((name for name in _COLUMNS if is_list_of(row.get(name), "role", "content")), None)
        return tuple(name for name in (image_column(row), column) if name) if column else None

    def samples(self, row: Cells) -> list[Sample]:
        """Return the conversation."""
        column = next((name for name in _COLUMNS if row.get(name)), _COLUMNS[0])
        images = image_column(row)
        reader = _Reader(pictures_of(row[images]) if images else [])
        turns = []
        for message in as_list(row.get(column), column):
            fields = message if isinstance(message, dict) else {}
            turns.append((role_of(fields.get("role")), reader.text(fields.get("content"))))
        system, pairs = pairs_of(turns)
        return [make_sample(reader.pictures(), pairs, system)]


class _Reader:
    """Reads contents in their order, and collects the pictures.

    Args:
        beside: The pictures that stand in a column of their own.
    """

    def __init__(self, beside: list[PictureRef]) -> None:
        self._beside = beside
        self._taken: list[PictureRef] = []
        self._in_parts = False
        self._waiting = 0

    def pictures(self) -> list[PictureRef]:
        """Return the pictures in the order of their markers.

        Raises:
            InputError: Some pictures of the column have no part, or some parts no picture.
        """
        if not self._in_parts:
            return self._beside
        if self._waiting != len(self._beside):
            raise InputError(
                f"{self._waiting} parts of the messages ask for a picture of the column, which has {len(self._beside)}"
            )
        return self._taken

    def text(self, content: Any) -> str:
        """Return a content's text, with a marker for each of its pictures.

        Raises:
            InputError: It is neither a text nor a list of known parts.
        """
        if isinstance(content, str):
            parts = _parts_in_text(content)
            if parts is None:
                return content
            content = parts
        if content is None:
            return ""
        if not isinstance(content, list):
            raise InputError(f"a message's content must be a text or a list of parts, not {type(content).__name__}")
        return "".join(self._part(part) for part in content).strip()

    def _part(self, part: Any) -> str:
        if isinstance(part, str):
            return _plain(part)
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXT_PARTS:
            return _plain(part.get("text") or "")
        if kind not in _IMAGE_PARTS:
            raise InputError(f"a message has a part of type {kind!r}; known are {sorted(_TEXT_PARTS | _IMAGE_PARTS)}")
        self._in_parts = True
        given = _picture(part)
        if given is not None:
            self._taken.append(given)
        elif self._waiting < len(self._beside):
            self._taken.append(self._beside[self._waiting])
            self._waiting += 1
        else:
            raise InputError("a part of type image has no picture, and there is none in a column beside it")
        return f"{IMAGE_MARKER}\n"


def _plain(text: str) -> str:
    """Return a text beside parts: what looks like a marker in it is none."""
    return text.replace(IMAGE_MARKER, "")


def _parts_in_text(content: str) -> list[Any] | None:
    """Return the parts of a content that is stored as JSON, or None where it is a plain text."""
    if not content.startswith("[{"):
        return None
    try:
        parts = json.loads(content)
    except ValueError:
        return None
    return parts if all(isinstance(part, dict) and "type" in part for part in parts) else None


def _picture(part: dict[str, Any]) -> PictureRef | None:
    """Return the picture of a part: a URL, base64, a path or bytes; None where the part names none."""
    for name in ("image_url", "image", "url", "path", "base64"):
        value = part.get(name)
        if isinstance(value, dict) and name == "image_url":
            value = value.get("url")
        if value and name == "base64":
            return f"data:;base64,{value}"
        if value and not (isinstance(value, dict) and not any(value.values())):
            return picture_of(value)
    source = part.get("source")
    if isinstance(source, dict) and source.get("data"):
        return f"data:;base64,{source['data']}"
    if isinstance(source, dict) and source.get("url"):
        return picture_of(source["url"])
    return None
