"""The exported image processor against the preprocessing of training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from components.data.image import normalise, preprocess
from components.data.image_settings import ImageSettings
from components.errors import StageError
from components.export.config import ExportConfig

if TYPE_CHECKING:
    from transformers import LlavaProcessor

_SEED = 20242
# Usual sizes of photographs, and extreme ones: (width, height).
_SIZES = (
    *((640, 480), (480, 640), (640, 427), (427, 640), (500, 375), (500, 333), (333, 500), (640, 426), (1024, 768)),
    *((1920, 1080), (336, 336), (97, 61), (61, 97), (300, 100)),
)
_TRANSPARENT = (61, 97)  # of this size the noise is in the alpha channel, too


@dataclass(frozen=True)
class PixelComparison:
    """What was measured.

    Attributes:
        difference: Largest difference of a normalised pixel, over the sizes that both sides resize alike.
        sizes: Picture sizes that were compared.
        alike: Those of them that both sides resize to the same height and width.
    """

    difference: float
    sizes: int
    alike: int


def compare_pixels(settings: ImageSettings, processor: "LlavaProcessor", config: ExportConfig) -> PixelComparison:
    """Bring noise of many sizes through both.

    Args:
        settings: How pictures entered the model in training.
        processor: The export's.
        config: The export's settings: stock Llava may cut the shorter side of a padded picture off by one pixel.

    Raises:
        StageError: Pixels differ by more than the tolerance, or sizes by more than that pixel.
    """
    generator = np.random.default_rng(_SEED)
    largest, alike = 0.0, 0
    for width, height in _SIZES:
        channels = 4 if (width, height) == _TRANSPARENT else 3
        picture = Image.fromarray(generator.integers(0, 256, (height, width, channels), dtype=np.uint8))
        pixels, valid = preprocess(picture, settings)
        mine = normalise(pixels[None], torch.tensor([valid]), settings)[0]
        theirs = torch.as_tensor(processor.image_processor(picture, return_tensors="pt")["pixel_values"][0])
        if _area(theirs) == valid:
            alike += 1
            largest = max(largest, float((mine - theirs).abs().max()))
        elif (
            config.custom_code
            or settings.layout != "pad"
            or max(abs(a - b) for a, b in zip(_area(theirs), valid, strict=True)) > 1
        ):
            raise StageError(
                f"The exported image processor brings a picture of {width} x {height} to {_area(theirs)} (height, width), "
                f"this project to {valid}."
            )
    if not largest <= config.pixel_tolerance:
        raise StageError(
            f"The exported image processor's pixels differ from those of training by up to {largest:.3g}; the tolerance "
            f"is {config.pixel_tolerance:g} (export.pixel_tolerance)."
        )
    return PixelComparison(largest, len(_SIZES), alike)


def _area(pixels: Tensor) -> tuple[int, int]:
    """Return height and width of what is not padding; noise is nowhere zero over a whole row."""
    inside = (pixels != 0).any(dim=0)
    return int(inside.any(dim=1).sum()), int(inside.any(dim=0).sum())
