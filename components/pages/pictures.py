"""Pictures on pages: small JPEGs, written into the page itself."""

import base64
import io
import math
from collections.abc import Sequence

from PIL import Image

THUMBNAIL_SIDE = 320
_QUALITY = 88
_GAP = 8


def thumbnail(picture: Image.Image) -> bytes:
    """Return a picture in RGB as JPEG, at most 320 pixels wide and high; a smaller one keeps its size."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return pictures on white in their order, in as many columns as rows; a single one stays as it is."""
    if len(pictures) == 1:
        return pictures[0]
    columns = math.ceil(math.sqrt(len(pictures)))
    cell = THUMBNAIL_SIDE // columns - _GAP
    small = [picture.copy() for picture in pictures]
    for picture in small:
        picture.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    width, height = (count * (cell + _GAP) - _GAP for count in (columns, math.ceil(len(small) / columns)))
    shown = Image.new("RGB", (width, height), "white")
    for number, picture in enumerate(small):
        row, column = divmod(number, columns)
        shown.paste(picture, (column * (cell + _GAP), row * (cell + _GAP)))
    return shown


def data_uri(jpeg: bytes) -> str:
    """Return a JPEG as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
