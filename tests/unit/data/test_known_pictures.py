"""Pictures that are found again, and pictures that are not taken for one another."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.data.fingerprint import Look, difference, hash_of, hashes_of, sketch_of
from components.data.known_pictures import KnownPictures, write_known


def _encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def _known(folder: Path, pictures: dict[str, bytes]) -> KnownPictures:
    seen: list[int] = []
    write_known(folder, sorted(pictures), pictures.__getitem__, 2, seen.append)
    assert seen == list(range(1, len(pictures) + 1))
    return KnownPictures(folder)


def _shape(colour: str, x: int = 20) -> Image.Image:
    image = Image.new("RGB", (128, 128), (205, 205, 200))
    image.paste(colour, (x, 40, x + 40, 80))
    return image


def test_pictures_without_contrast_are_one_only_as_the_same_file(tmp_path: Path) -> None:
    white, grey = _encoded(Image.new("RGB", (64, 64), "white")), _encoded(Image.new("RGB", (64, 64), (250, 250, 250)))
    known = _known(tmp_path, {"white": white})
    match = known.find(white)
    assert match is not None
    assert match.likeness == "bytes"
    assert known.find(grey) is None
    assert known.find(_encoded(Image.new("RGB", (64, 64), "white"), "BMP")) is None


@pytest.mark.parametrize(("colour", "x"), [("orange", 20), ("red", 70), ("red", 34)])
def test_drawings_of_another_colour_or_place_are_others(colour: str, x: int, tmp_path: Path) -> None:
    known = _known(tmp_path, {"red": _encoded(_shape("red"))})
    assert known.find(_encoded(_shape(colour, x))) is None
    assert known.find(_encoded(_shape("red"), "JPEG")) is not None


def test_orientation_is_applied_before_pictures_are_compared(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    buffer = io.BytesIO()
    _shape("red").transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=turned)
    match = _known(tmp_path, {"red": _encoded(_shape("red"))}).find(buffer.getvalue())
    assert match is not None
    assert match.likeness == "pixels"


def test_a_sketch_is_the_same_at_every_scale_of_decoding() -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (1600, 1200), Image.Resampling.BICUBIC
    )
    large, small = sketch_of(_encoded(coarse, "JPEG")), sketch_of(_encoded(coarse.resize((200, 150)), "PNG"))
    assert np.bitwise_count(hash_of(large) ^ hash_of(small)) <= 2
    assert hashes_of(large).shape == (10,)
    assert hashes_of(large)[0] == hash_of(large)
    found = difference(Look(large), Look(small))
    assert found.is_small
    assert found.mean < 3
