"""Settings of the WebDataset conversion."""

from pydantic import BaseModel, ConfigDict, Field


class WdsConversionConfig(BaseModel):
    """How a raw dataset becomes shards.

    Attributes:
        annotations: Name of the JSON file in the raw dataset folder, in LLaVA's layout.
        prefix: Start of the shards' names, and the name of this use of the stage: "pretrain" or "sft".
        samples_per_shard: Most samples of a shard.
        min_shards: Least number of shards. Energon splits by shard: ten give nine parts for training and one for validation.
        check_images: Decode every JPEG at its smallest scale, other formats fully; what does not decode is rejected.
        max_reject_share: Share of entries that may be rejected, from 0 to 1; more fails the stage.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    annotations: str = Field(pattern=r"^[^/\\]+\.json$")
    prefix: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    samples_per_shard: int = Field(default=10_000, gt=0)
    min_shards: int = Field(default=10, gt=0)
    check_images: bool = True
    max_reject_share: float = Field(default=0.01, ge=0, le=1)
