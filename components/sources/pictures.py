"""From what a row says of a picture to its bytes, unchanged."""

import base64
import binascii
import zipfile
import zlib
from urllib.parse import unquote_to_bytes

from components.errors import VlmError
from components.sources.folder import SourceFolder
from components.sources.sample import PictureRef
from components.storage.config import TransferConfig
from components.storage.faults import patiently
from components.storage.listing import list_source
from components.storage.remote import RangesIgnored, SourceChanged
from components.storage.uri import read_uri, shown_uri

MOST_BYTES = 1 << 28

_DATA = "data:"
_WEB = ("http://", "https://")
_SHORTEST_BASE64 = 64
_WEB_TRANSFER = TransferConfig(attempts=3, timeout_s=20)
"""A picture's server is given less time than a dataset's: a row without its picture is left out, and counted."""


class MissingPicture(Exception):
    """A picture can't be had; says why."""


def picture_bytes(ref: PictureRef, folder: SourceFolder, file: str) -> bytes:
    """Return a picture's bytes.

    Args:
        ref: What the row says.
        folder: The dataset's files.
        file: The file of the row; paths count from there.

    Raises:
        MissingPicture: There is no such picture, or its server does not give it.
    """
    if isinstance(ref, bytes):
        return ref
    if ref.startswith(_DATA):
        return _from_data_uri(ref)
    if ref.startswith(_WEB):
        return _from_web(ref)
    try:
        content = folder.read_beside(file, ref)
    except (VlmError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise MissingPicture(f"{_short(ref)} can't be read: {error}") from error
    if content is None:
        content = _from_base64(ref) if len(ref) >= _SHORTEST_BASE64 else None
    if content is None:
        raise MissingPicture(f"there is no picture {_short(ref)} beside the row's file")
    return content


def _from_data_uri(ref: str) -> bytes:
    head, comma, data = ref.removeprefix(_DATA).partition(",")
    content = _from_base64(data) if head.endswith(";base64") else unquote_to_bytes(data)
    if not comma or not content:
        raise MissingPicture("its data URI can't be read")
    return content


def _from_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _from_web(url: str) -> bytes:
    shown = shown_uri(url)

    def ask() -> bytes:
        (file,) = list_source(read_uri(url, "a picture's URL"), _WEB_TRANSFER).files
        content = bytearray()
        for chunk in file.read(0, file.facts.size if file.facts.ranges else None):
            content += chunk
            if len(content) > MOST_BYTES:
                raise MissingPicture(f"{shown} has more than {MOST_BYTES} bytes")
        return bytes(content)

    try:
        return patiently(ask, shown, _WEB_TRANSFER)
    except (VlmError, SourceChanged, RangesIgnored, ValueError) as error:
        raise MissingPicture(str(error)) from error


def _short(ref: str) -> str:
    return ref if len(ref) <= 200 else f"{ref[:60]}…"
