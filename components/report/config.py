"""Settings of the report."""

from pydantic import BaseModel, ConfigDict, Field


class ReportConfig(BaseModel):
    """What the report shows.

    Attributes:
        preset: Name of the preset that the run was configured from; empty for none.
        samples (samples): Most held-out pictures shown per task.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str = ""
    samples: int = Field(default=12, ge=0)
