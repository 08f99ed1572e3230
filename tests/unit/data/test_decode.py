"""How pictures are opened: one function for training, generation, evaluation, checks."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from components.data.decode import BrokenPicture, check_picture, open_picture
from components.data.image_settings import ImageCheck
from components.data.pictures import Pictures
from components.errors import InputError


def _file(image: Image.Image, picture_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return buffer.getvalue()


def _noise(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).convert(mode)


def _with_long_text() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 3_000_000, zip=True)
    return _file(_noise(), pnginfo=info)


def _bomb() -> bytes:
    return _file(Image.new("1", (20_000, 20_000)))


def _grey_16_with_transparency() -> bytes:
    """A PNG of 16 bit grey whose value 40000 is transparent (PIL writes no such file)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    row = b"\0" + struct.pack(">2H", 40_000, 20_000)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", 40_000))
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty"),
    "a web page": (lambda: b"<!doctype html><title>502</title>", "It is text"),
    "noise": (lambda: bytes(range(200)), "no format that PIL knows"),
    "a cut JPEG": (lambda: _file(_noise(), "JPEG")[:900], "truncated"),
    "a cut PNG": (lambda: _file(_noise())[:-800], "does not decode"),
    "a large text chunk": (_with_long_text, "MAX_TEXT_CHUNK"),
    "a bomb": (_bomb, "exceeds limit"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_said_by_opening_and_by_checking(kind: str) -> None:
    make, reason = BROKEN[kind]
    content = make()
    for look in (open_picture, lambda content: check_picture(content, "decode")):
        with pytest.raises(BrokenPicture, match=reason):
            look(content)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damage_of_any_kind_has_a_name(data: st.DataObject) -> None:
    whole = _file(
        _noise(data.draw(st.sampled_from(["RGB", "L", "RGBA", "P"]))), data.draw(st.sampled_from(["PNG", "WEBP"]))
    )
    start = data.draw(st.integers(0, len(whole) - 1))
    content = whole[:start] + data.draw(st.binary(max_size=64)) + whole[start + data.draw(st.integers(0, 64)) :]
    for look in (open_picture, lambda content: check_picture(content, "decode")):
        with contextlib.suppress(BrokenPicture):
            look(content)


@pytest.mark.parametrize("check", ["decode", "header", "off"])
@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_whole_pictures_pass_every_check(check: ImageCheck, picture_format: str) -> None:
    check_picture(_file(_noise(), picture_format), check)


def test_transparency_shows_white() -> None:
    image = Image.new("RGBA", (2, 1), (10, 200, 30, 0))
    image.putpixel((1, 0), (100, 0, 0, 128))
    opened = open_picture(_file(image))
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 0)) == (round(100 * 128 / 255 + 127), 127, 127)
    assert open_picture(_grey_16_with_transparency()).getpixel((0, 0)) == (255, 255, 255)


def test_16_bit_grey_is_the_same_for_generation_and_training(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65_535, 64).astype(np.uint16), (4, 1))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "ramp.png").write_bytes(_file(Image.fromarray(ramp)))
    with Pictures(tmp_path) as pictures:
        shown = np.asarray(pictures.open("ramp.png"))
    assert np.array_equal(shown, np.repeat((ramp >> 8).astype(np.uint8)[:, :, None], 3, axis=2))
    assert open_picture(_grey_16_with_transparency()).getpixel((1, 0)) == (20_000 >> 8,) * 3


def test_a_broken_picture_of_a_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "long.png").write_bytes(_with_long_text())
    with Pictures(tmp_path) as pictures, pytest.raises(InputError, match=r"'long\.png'.*MAX_TEXT_CHUNK"):
        pictures.open("long.png")
