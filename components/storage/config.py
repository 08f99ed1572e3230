"""Settings of fetching."""

from pydantic import BaseModel, ConfigDict, Field


class TransferConfig(BaseModel):
    """How files are fetched; what is fetched does not depend on it.

    Attributes:
        connections: Files, or ranges of one file, that are fetched at the same time.
        attempts: Passing faults in a row, without a byte in between, that end the fetch.
        first_wait_s (s): Seconds before the second attempt; the wait doubles with every fault, up to a minute.
        timeout_s (s): Seconds without an answer or a byte after which a connection counts as stalled.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    connections: int = Field(default=8, ge=1, le=64)
    attempts: int = Field(default=8, ge=1)
    first_wait_s: float = Field(default=1.0, gt=0)
    timeout_s: float = Field(default=60.0, gt=0)
