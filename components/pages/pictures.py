"""Pictures on pages: small JPEGs, written into the page itself."""

import base64
import io

from PIL import Image

THUMBNAIL_SIDE = 320
_QUALITY = 88


def thumbnail(picture: Image.Image) -> bytes:
    """Return a picture in RGB as JPEG, at most 320 pixels wide and high; a smaller one keeps its size."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """Return a JPEG as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
