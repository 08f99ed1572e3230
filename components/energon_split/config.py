"""Settings of the energon split."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class EnergonSplitConfig(BaseModel):
    """How shards are divided.

    Attributes:
        name: Name of this use of the stage: "pretrain" or "sft".
        ratio: Parts of the shards for training, validation and test. Energon divides whole shards, in the order of their names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    ratio: tuple[float, float, float] = (9.0, 1.0, 0.0)

    @model_validator(mode="after")
    def _check(self) -> "EnergonSplitConfig":
        if min(self.ratio) < 0 or self.ratio[0] <= 0 or self.ratio[1] <= 0:
            raise ValueError(
                f"ratio needs parts for training and validation above 0 and none below 0, got {self.ratio}"
            )
        return self
