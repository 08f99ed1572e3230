"""Settings of the combination."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from components.data.image_settings import ImageSettings


class ProjectorSettings(BaseModel):
    """The projector that is added: two layers without bias.

    Attributes:
        ffn_hidden_size: Width between the layers.
        activation: Its activation.
        init_std: Standard deviation of the drawn weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ffn_hidden_size: int = Field(gt=0)
    activation: Literal["silu", "gelu"] = "silu"
    init_std: float = Field(default=0.014, gt=0)


class CombineConfig(BaseModel):
    """How the parts become one model.

    Attributes:
        projector: The projector between them.
        image: How pictures enter the vision tower; size and patch must be the tower's.
        seed: Seed of the projector's weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    projector: ProjectorSettings
    image: ImageSettings
    seed: int = Field(default=0, ge=0)
