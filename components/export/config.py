"""Settings of the export."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ExportConfig(BaseModel):
    """How a model is exported.

    Attributes:
        dtype: Type of the exported tensors; "auto" keeps the type that the checkpoint has.
        max_shard_bytes (bytes): Largest safetensors file. A parameter's tensors are never separated, so that one larger than
            this has a file of its own.
        custom_code: Write modelling code into the folder, which then loads with `trust_remote_code=True`. Stock Llava has
            a projector of two layers as wide as the language model, no pixel shuffle, and rounds the sides of padded
            pictures down; the code has none of these limits.
        verify: Compare the exported folder, run by transformers, with the checkpoint. Both run with one layer in memory.
        verify_tokens (tokens): Greedy tokens per prompt that are compared; each costs one pass over the checkpoint.
        tolerance: Largest absolute difference of any logit that passes, both computed in float32.
        pixel_tolerance: Largest absolute difference of any normalised pixel that passes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_shard_bytes: int = Field(default=5_000_000_000, gt=0)
    custom_code: bool = False
    verify: bool = True
    verify_tokens: int = Field(default=8, gt=0)
    tolerance: float = Field(default=1e-3, gt=0)
    pixel_tolerance: float = Field(default=1e-4, gt=0)
