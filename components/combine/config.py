"""Settings of the combination."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.data.image_settings import ImageLayout, Resample


class ProjectorSettings(BaseModel):
    """The projector that is added.

    Attributes:
        depth (layers): Linear layers, with the activation between them. 1: a linear map; 2: the MLP of LLaVA-1.5.
        ffn_hidden_size: Width between the layers; null takes the language model's. Without a meaning where depth is 1.
        activation: What stands between two layers.
        bias: Whether every layer has a bias.
        init: How the weights are drawn. "normal": normally with `init_std`, biases zero. "scaled": the same, but the last of
            several layers with `init_std` / sqrt(2 x layers of the language model), as Megatron-LM draws the last layer of any
            MLP. "uniform": evenly within +-1 / sqrt(inputs), biases too, as PyTorch draws a linear layer, and so LLaVA;
            `init_std` is not used.
        init_std: Standard deviation of the drawn weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    depth: int = Field(default=2, gt=0)
    ffn_hidden_size: int | None = Field(default=None, gt=0)
    activation: Literal["silu", "gelu"] = "silu"
    bias: bool = False
    init: Literal["normal", "scaled", "uniform"] = "normal"
    init_std: float = Field(default=0.014, gt=0)


class ImageChoice(BaseModel):
    """How pictures enter the vision tower. What is left out is as the tower was trained: see `weight_conversion`.

    Attributes:
        size (pixels): Side of the square input in pixels; must be the tower's.
        patch (pixels): Side of a patch in pixels; must be the tower's.
        mean: Mean of the red, green and blue channel, of values in 0..1.
        std: Standard deviation of the channels, of values in 0..1.
        resample: PIL's filter for resizing.
        layout: What happens to the aspect ratio. "pad": kept, the longest side becomes `size`, right and bottom are
            padded with zeros after normalisation. "squash": both sides become `size` (SigLIP's own). "center_crop":
            kept, the shortest side becomes `size`, the middle is cut out (CLIP's own).
        pixel_shuffle (patches): Side of the square of patches that becomes one image token. 1: every patch is a token. 2: four
            patches are one token of four times the width, so that a picture takes a quarter of the tokens. Divides the
            patches of a row.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int | None = Field(default=None, gt=0)
    patch: int | None = Field(default=None, gt=0)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resample: Resample | None = None
    layout: ImageLayout = "pad"
    pixel_shuffle: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be positive in every channel, got {self.std}")
        return self


class CombineConfig(BaseModel):
    """How the parts become one model.

    Attributes:
        projector: The projector between them.
        image: How pictures enter the vision tower.
        seed: Seed of the projector's weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    projector: ProjectorSettings
    image: ImageChoice = ImageChoice()
    seed: int = Field(default=0, ge=0)
