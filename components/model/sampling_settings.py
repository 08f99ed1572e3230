"""Settings of how the next token of an answer is chosen; free of torch."""

from pydantic import BaseModel, ConfigDict, Field


class Sampling(BaseModel):
    """Settings of the choice; by default the most likely token is taken (greedy decoding).

    Attributes:
        temperature: The logits are divided by it before a token is drawn; 0 takes the most likely token instead.
        top_k (tokens): Draw from the k most likely tokens alone; 0 for all.
        top_p (fraction): Draw from the fewest most likely tokens whose probabilities sum to at least this (nucleus sampling).
        seed: With a sample's id it decides all draws of that sample's answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0


GREEDY = Sampling()
