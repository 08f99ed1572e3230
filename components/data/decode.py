"""From a picture file's bytes to an upright, opaque RGB picture: the one way in which pictures are opened, in every stage.

Light on imports: the conversion's processes use it too.
"""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from components.data.image_settings import ImageCheck
from components.errors import InputError

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = 1
_OPAQUE_FORM = {"La": "LA", "RGBa": "RGBA"}  # of modes whose colours are multiplied by alpha
_WHITE = (255, 255, 255, 255)

_JPEG_END = b"\xff\xd9"
_PNG_END = b"IEND\xaeB`\x82"
_END_SEARCH_BYTES = 64  # some cameras write a few bytes after the end


class BrokenPicture(InputError):
    """Bytes that are no picture, or that can't be decoded; says why, without the picture's name."""


def open_picture(content: bytes) -> Image.Image:
    """Decode a picture, wholly.

    Args:
        content: A file in any format that PIL reads; of several frames the first counts.

    Returns:
        RGB as `to_rgb` makes it.

    Raises:
        BrokenPicture: It is empty, cut off, damaged, in no known format, or so large that it may be a decompression bomb.
    """
    image = _open(content)
    try:
        return to_rgb(image)
    except Exception as error:  # decoders raise many kinds on damaged data
        raise _broken(error) from error


def open_small(content: bytes, side: int) -> Image.Image:
    """Decode a picture to a square of few pixels, at less cost than a whole one: JPEGs at a fraction of their scale.

    Args:
        content: A file.
        side: Side of the square in pixels; the aspect ratio is not kept.

    Returns:
        RGB as `to_rgb` makes it.

    Raises:
        BrokenPicture: As in `open_picture`.
    """
    image = _open(content)
    try:
        if image.format == "JPEG":
            image.draft("RGB", (side, side))
        small = to_rgb(image)
        smooth = Image.Resampling.BOX if min(small.size) >= side else Image.Resampling.BICUBIC
        return small.resize((side, side), smooth)
    except Exception as error:  # decoders raise many kinds on damaged data
        raise _broken(error) from error


def check_picture(content: bytes, check: ImageCheck) -> None:
    """Look for what `open_picture` would stumble over, at less cost.

    Args:
        content: A file.
        check: "decode" reads all its data (JPEGs at an eighth of their scale, in grey); "header" reads the header and looks
            for the end of JPEG, PNG and WebP; "off" looks at nothing.

    Raises:
        BrokenPicture: As in `open_picture`.
    """
    if check == "off":
        return
    image = _open(content)
    if check == "header":
        _check_end(content, image.format)
        return
    try:
        if image.format == "JPEG":
            image.draft("L", (1, 1))
            image.load()
        else:
            to_rgb(image)
    except Exception as error:  # decoders raise many kinds on damaged data
        raise _broken(error) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a picture in RGB, upright and opaque, as transformers brings it to its image processors and browsers show it.

    An EXIF orientation is applied. What is transparent shows white behind it. Palettes, grey and CMYK are converted by PIL.
    Of 16 bit grey the upper eight are kept, as PIL does with 16 bit colour; its own conversion would make all but the darkest
    values white.
    """
    if image.getexif().get(_EXIF_ORIENTATION, _UPRIGHT) != _UPRIGHT:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode in _OPAQUE_FORM:
        image = image.convert(_OPAQUE_FORM[image.mode])
    opaque = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), opaque).convert("RGB")


def _open(content: bytes) -> Image.Image:
    if not content:
        raise BrokenPicture("the file is empty (0 bytes)")
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:  # its message has an address in memory, another one in every run
        text = " It is text: a web page or a pointer that was stored instead of it?" if _is_text(content) else ""
        raise BrokenPicture(f"its header can't be read: it is in no format that PIL knows.{text}") from error
    except Exception as error:  # a large text chunk in a PNG is a ValueError, a bomb an error of its own
        raise _broken(error) from error


def _broken(error: Exception) -> BrokenPicture:
    return BrokenPicture(f"it does not decode: {str(error) or type(error).__name__}")


def _is_text(content: bytes) -> bool:
    return content.lstrip()[:1] in (b"<", b"{") or content.startswith(b"version https://git-lfs")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return 16 bit grey as 8 bit grey; a value that stands for transparency becomes an alpha channel."""
    values = np.asarray(image).astype(np.int64)
    grey = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey


def _check_end(content: bytes, picture_format: str | None) -> None:
    tail = content[-_END_SEARCH_BYTES:].rstrip(b"\0")
    if picture_format == "WEBP":
        complete = len(content) >= int.from_bytes(content[4:8], "little") + 8
    else:
        ends = {"JPEG": _JPEG_END, "PNG": _PNG_END}
        complete = ends.get(str(picture_format), b"") in tail
    if not complete:
        raise BrokenPicture("it does not decode: its end is missing")
