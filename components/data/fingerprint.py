"""What a picture looks like, in few bytes: to find it again after it was encoded anew, resized or cropped a little.

A perceptual hash (imagehash's `phash`: signs of the lowest 8 x 8 coefficients of a cosine transform) finds candidates, and
`difference` compares them: the hash of simple drawings on plain backgrounds is often that of another one.
"""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.data.decode import open_small

Pixels = npt.NDArray[np.uint8]
Crop = tuple[float, float, float, float]
"""Shares that are cut off: left, top, right, bottom."""

Hashes = npt.NDArray[np.uint64]
Values = npt.NDArray[np.float32]

SIDE = 64
"""Side of a sketch in pixels."""

_COMPARED_SIDE = 32
_MOST_CROPPED = 0.08
_STEPS = (0.025, 0.0125, 0.00625)
_HOPELESS = 40.0
_LEAST_GAIN = 0.85
_FAIR = 4.0

# Measured: tests/benchmarks/decontamination.py.
_MOST_MEAN = 8.0
_MOST_LOCAL = 48.0
_LEAST_CONTRAST = 4.0
_MOST_OF_CONTRAST = 0.2

_NO_CROP: Crop = (0.0, 0.0, 0.0, 0.0)
_CROPS: tuple[Crop, ...] = (
    *((0.025, 0.025, 0.025, 0.025), (0.05, 0, 0, 0), (0, 0.05, 0, 0), (0, 0, 0.05, 0), (0, 0, 0, 0.05)),
    *((0.05, 0.05, 0, 0), (0, 0.05, 0.05, 0), (0.05, 0, 0, 0.05), (0, 0, 0.05, 0.05)),
)


class Difference(NamedTuple):
    """How two sketches differ where they fit best.

    Attributes:
        mean: Mean difference of a value, of 255.
        local: Largest difference of a value, of 255, over areas of a 256th of the picture.
        contrast: Standard deviation of the values.
    """

    mean: float
    local: float
    contrast: float

    @property
    def is_small(self) -> bool:
        """Whether they are sketches of one picture; of pictures without contrast that can't be told."""
        return (
            self.contrast >= _LEAST_CONTRAST
            and self.mean <= min(_MOST_MEAN, _MOST_OF_CONTRAST * self.contrast)
            and self.local <= _MOST_LOCAL
        )


def sketch_of(content: bytes) -> Pixels:
    """Return a picture as 64 x 64 RGB pixels, whatever its shape.

    Raises:
        BrokenPicture: It can't be decoded.
    """
    return np.asarray(open_small(content, SIDE))


def hash_of(sketch: Pixels) -> np.uint64:
    """Return the perceptual hash of a sketch, 64 bits."""
    return _hash(Image.fromarray(sketch))


def hashes_of(sketch: Pixels) -> Hashes:
    """Return the perceptual hashes of a sketch and of what is left when it is cropped by a twentieth, [10]."""
    picture = Image.fromarray(sketch)
    cropped = [_cropped(picture, crop, SIDE) for crop in _CROPS]
    return np.array([_hash(picture), *map(_hash, cropped)], dtype=np.uint64)


class Look:
    """A sketch ready to be compared with many: what is worked out for one comparison is kept for the next.

    Args:
        sketch: What `sketch_of` gave.
    """

    def __init__(self, sketch: Pixels) -> None:
        self._picture = Image.fromarray(sketch)

    @cached_property
    def whole(self) -> Values:
        """Its values, nothing cropped, [32, 32, 3]."""
        return self.cropped(_NO_CROP)

    @cached_property
    def usual(self) -> list[Values]:
        """Its values with each of the usual crops."""
        return [self.cropped(crop) for crop in _CROPS]

    def cropped(self, crop: Crop) -> Values:
        """Return its values with a crop."""
        return np.asarray(_cropped(self._picture, crop, _COMPARED_SIDE), dtype=np.float32)


def difference(first: Look, second: Look) -> Difference:
    """Return how two sketches differ, either of them cropped so that they fit best; by up to 8 % at a side."""
    contrast = float(first.whole.std())
    start = float(np.abs(first.whole - second.whole).mean())
    found = Difference(start, _local(first.whole, second.whole), contrast)
    if start > _HOPELESS or found.is_small:
        return found
    # Of two that fit equally well the first is taken.
    best, crop, moved, fixed = min(
        (*_fit(first, second.whole, start), first, second),
        (*_fit(second, first.whole, start), second, first),
        key=lambda fit: (fit[0], fit[1]),
    )
    return Difference(best, _local(moved.cropped(crop), fixed.whole), contrast)


def _hash(picture: Image.Image) -> np.uint64:
    import imagehash  # it imports scipy, which takes time

    return np.packbits(imagehash.phash(picture).hash.flatten()).view(np.uint64)[0]


def _cropped(picture: Image.Image, crop: Crop, side: int) -> Image.Image:
    left, top, right, bottom = (share * SIDE for share in crop)
    box = (left, top, SIDE - right, SIDE - bottom)
    return picture.resize((side, side), Image.Resampling.BILINEAR, box=box)


def _local(first: Values, second: Values) -> float:
    largest = np.abs(first - second).max(axis=2)
    half = _COMPARED_SIDE // 2
    return float(largest.reshape(half, 2, half, 2).mean(axis=(1, 3)).max())


def _fit(look: Look, fixed: Values, start: float) -> tuple[float, Crop]:
    """Return the smallest mean difference that is found, and how the picture is cropped there.

    From the best of the usual crops one side at a time is moved.
    """

    def mean_of(crop: Crop) -> float:
        return float(np.abs(look.cropped(crop) - fixed).mean())

    usual = (float(np.abs(values - fixed).mean()) for values in look.usual)
    best, crop = min((start, _NO_CROP), *zip(usual, _CROPS, strict=True))
    for step in _STEPS:
        improved = True
        while improved:
            improved = False
            for side in range(4):
                for change in (step, -step):
                    share = min(max(crop[side] + change, 0.0), _MOST_CROPPED)
                    if share == crop[side]:
                        continue
                    tried = _with(crop, side, share)
                    mean = mean_of(tried)
                    if mean < best:
                        best, crop, improved = mean, tried, True
        if best > _FAIR and best > _LEAST_GAIN * start:  # what was cropped fits much better at once
            break
    return best, crop


def _with(crop: Crop, side: int, share: float) -> Crop:
    left, top, right, bottom = (share if number == side else old for number, old in enumerate(crop))
    return left, top, right, bottom
