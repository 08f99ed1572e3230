"""How pictures enter the vision tower; without torch, because configurations are read where nothing is computed."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ImageLayout = Literal["pad", "squash", "center_crop"]
ImageCheck = Literal["decode", "header", "off"]


class ImageSettings(BaseModel):
    """How pictures enter the vision tower.

    Attributes:
        size (pixels): Side of the square input in pixels.
        patch (pixels): Side of a patch in pixels; divides `size`.
        mean: Mean of the red, green and blue channel, of values in 0..1. The default is CLIP's.
        std: Standard deviation of the channels, of values in 0..1. The default is CLIP's.
        layout: What happens to the aspect ratio. "pad": kept, the longest side becomes `size`, right and bottom are
            padded with zeros after normalisation. "squash": both sides become `size`. "center_crop": kept, the
            shortest side becomes `size`, the middle is cut out (CLIP's own).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(gt=0)
    patch: int = Field(gt=0)
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    layout: ImageLayout = "pad"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is not a multiple of patch {self.patch}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive in every channel, got {self.std}")
        return self

    @property
    def tokens(self) -> int:
        """Number of image tokens of one picture: one per patch."""
        return (self.size // self.patch) ** 2
