"""How pictures enter the vision tower; without torch, because configurations are read where nothing is computed."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ImageLayout = Literal["pad", "squash", "center_crop"]
ImageCheck = Literal["decode", "header", "off"]
Resample = Literal["bicubic", "bilinear"]


class PixelSettings(BaseModel):
    """How pictures are resized and normalised: what a vision tower was trained with. The defaults are CLIP's.

    Attributes:
        mean: Mean of the red, green and blue channel, of values in 0..1.
        std: Standard deviation of the channels, of values in 0..1.
        resample: PIL's filter for resizing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resample: Resample = "bicubic"

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive in every channel, got {self.std}")
        return self


class ImageSettings(PixelSettings):
    """How pictures enter the vision tower.

    Attributes:
        mean: See `PixelSettings`.
        std: See `PixelSettings`.
        resample: See `PixelSettings`.
        size (pixels): Side of the square input in pixels.
        patch (pixels): Side of a patch in pixels. What is left right and below the last whole patch is not seen: of 384
            pixels, patches of 14 see 378.
        layout: What happens to the aspect ratio. "pad": kept, the longest side becomes `size`, right and bottom are
            padded with zeros after normalisation. "squash": both sides become `size` (SigLIP's own). "center_crop":
            kept, the shortest side becomes `size`, the middle is cut out (CLIP's own).
        pixel_shuffle (patches): Side of the square of patches that becomes one image token; see `components.model.projector`.
    """

    size: int = Field(gt=0)
    patch: int = Field(gt=0)
    layout: ImageLayout = "pad"
    pixel_shuffle: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.size < self.patch:
            raise ValueError(f"size {self.size} is less than patch {self.patch}")
        if self.side % self.pixel_shuffle:
            divisors = ", ".join(str(number) for number in range(1, self.side + 1) if self.side % number == 0)
            raise ValueError(
                f"pixel_shuffle {self.pixel_shuffle} does not divide the {self.side} x {self.side} patches of size {self.size} "
                f"and patch {self.patch}: set it to one of {divisors}, or take a vision tower of another grid"
            )
        return self

    @property
    def side(self) -> int:
        """Number of whole patches of a row, and of a column."""
        return self.size // self.patch

    @property
    def tokens(self) -> int:
        """Number of image tokens of one picture: one per whole patch, or per square of them (`pixel_shuffle`)."""
        return (self.side // self.pixel_shuffle) ** 2
