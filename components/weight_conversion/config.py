"""Settings of the weight conversion."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class WeightConversionConfig(BaseModel):
    """How one pretrained part is converted.

    Attributes:
        part: What the source is: "language" or "vision"; see `components.model.families`.
        make_vocab_size_divisible_by (tokens): Language only: the vocabulary is padded to a multiple of this, which every
            tensor-parallel size that will be used must divide. 1024 is 128 for each of 8 ranks; small models take less.
        feature_layer: Vision only: which layer's output is the feature. -1 is the last (without post-layernorm), -2
            the last but one; layers above are not converted.
        dtype: Type of the stored parameters; "auto" keeps bfloat16 and stores everything else as float32.
        verify: Compare the stored checkpoint's output with that of the source, run by transformers (or, for OpenAI's
            files, by plain PyTorch); one layer at a time is in memory, in float32.
        tolerance: Largest difference of any output value that passes, relative to the largest output value where that
            is above 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    part: Literal["language", "vision"]
    make_vocab_size_divisible_by: int = Field(default=1024, gt=0)
    feature_layer: int = Field(default=-1, lt=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    verify: bool = True
    tolerance: float = Field(default=1e-4, gt=0)
