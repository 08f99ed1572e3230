"""What one entry becomes: the fields of a sample, or the reason why it can't be one."""

import json
from collections.abc import Sequence
from typing import Any

from components.data.blend import CONVERSATION_FIELD, picture_field
from components.data.conversation import read_conversation
from components.data.decode import BrokenPicture, check_picture
from components.data.entry import check_text, named_pictures
from components.data.image_roots import BrokenImage, ImageReader, MissingImage, Place
from components.data.image_settings import ImageCheck
from components.errors import InputError

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_SIGNATURES = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"))
_WEBP = (b"RIFF", b"WEBP")


class RejectedEntry(Exception):
    """An entry that can't become a sample: a short cause to count by, and the details."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


def sample_fields(
    entry: Any, places: Sequence[Place | None], reader: ImageReader, check: ImageCheck
) -> list[tuple[str, bytes]]:
    """Return the fields of a sample: extension and content, the pictures first.

    Args:
        entry: An entry in LLaVA's layout.
        places: Where each of its pictures lies; None for one that was not found.
        reader: Reads pictures.
        check: How broken pictures are found.

    Raises:
        RejectedEntry: The entry has another layout, or a picture of it can't be used.
    """
    try:
        images = named_pictures(entry)
    except InputError as error:
        raise RejectedEntry("bad_entry", str(error)) from error
    conversation = entry.get("conversations")
    try:
        read_conversation(conversation, pictures=len(images))
        check_text(conversation)
    except InputError as error:
        raise RejectedEntry("bad_conversation", str(error)) from error
    text = _ENCODER.encode(conversation).encode()
    contents = [_picture(image, place, reader) for image, place in zip(images, places, strict=True)]
    fields = [
        (picture_field(number, len(contents), picture_extension(content, check)), content)
        for number, content in enumerate(contents)
    ]
    return [*fields, (CONVERSATION_FIELD, text)]


def picture_extension(content: bytes, check: ImageCheck) -> str:
    """Return the field name of a picture by its format, after a look for what would break it.

    Raises:
        RejectedEntry: It is empty, of a format that shards don't hold, or broken.
    """
    if not content:
        raise RejectedEntry("broken_picture", "the file is empty (0 bytes)")
    extension = _extension(content)
    try:
        check_picture(content, check)
    except BrokenPicture as error:
        raise RejectedEntry("broken_picture", str(error)) from error
    return extension


def _picture(image: str, place: Place | None, reader: ImageReader) -> bytes:
    if place is None:
        raise RejectedEntry("missing_picture", f"there is no picture {image}")
    try:
        return reader.read(place)
    except MissingImage as error:
        raise RejectedEntry("missing_picture", f"{image} {error}") from error
    except BrokenImage as error:
        raise RejectedEntry("broken_picture", f"{image} {error}") from error


def _extension(content: bytes) -> str:
    for signature, extension in _SIGNATURES:
        if content.startswith(signature):
            return extension
    if content[:4] == _WEBP[0] and content[8:12] == _WEBP[1]:
        return "webp"
    raise RejectedEntry("unknown_format", "the picture is neither JPEG nor PNG nor WebP; convert it")
