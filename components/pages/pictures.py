"""Pictures on pages: small JPEGs, written into the page itself."""

import base64
import io
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
    """Return pictures in a row on white, as high as the lowest of them; a single one stays as it is."""
    if len(pictures) == 1:
        return pictures[0]
    height = min(THUMBNAIL_SIDE, *(picture.height for picture in pictures))
    scaled = [picture.resize((max(1, round(picture.width * height / picture.height)), height)) for picture in pictures]
    row = Image.new("RGB", (sum(picture.width for picture in scaled) + _GAP * (len(scaled) - 1), height), "white")
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width + _GAP
    return row


def data_uri(jpeg: bytes) -> str:
    """Return a JPEG as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
