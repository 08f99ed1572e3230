"""Settings of the energon split."""

from fractions import Fraction
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SPLITS = ("train", "val", "test")

SampleType = Literal["auto", "conversation", "vqa", "captioning"]
Subflavors = dict[str, bool | int | float | str]


class BlendPart(BaseModel):
    """Another dataset that training draws from.

    Attributes:
        path: Absolute path of a finished folder of this stage, or of any dataset that energon has prepared, if it is of the
            crude type and its samples are like ours: `json`, the conversation, and `jpg`, `png` or `webp`, several of them as
            `0.jpg`, `1.png`, ..., or none.
        weight: How often it is drawn from, beside the other weights.
        subflavors: Marks that energon puts on its samples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(pattern=r"^/")
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    subflavors: Subflavors = {"augmentation": False}


class EnergonSplitConfig(BaseModel):
    """How shards are divided, and what they are blended with.

    Attributes:
        name: Name of this use of the stage: "pretrain" or "sft".
        ratio: Parts of the shards for training, validation and test. Energon divides whole shards, in the order of their names.
        sample_type: What energon's own tools and other trainers take the samples for (`dataset.yaml`): "conversation" (the crude
            type: all turns, with or without a picture), "vqa" (VQASample: picture, first question, first answer; the
            reference recipe's), "captioning" (CaptioningSample: picture, first answer), or "auto": "vqa" where every sample has a
            picture, else "conversation". This project's training always sees whole conversations.
        weight: How often training draws from this dataset, beside the weights of `blend_with`.
        subflavors: Marks that energon puts on its samples.
        blend_with: Other datasets that training draws from as well.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    ratio: tuple[float, float, float] = (9.0, 1.0, 0.0)
    sample_type: SampleType = "auto"
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    subflavors: Subflavors = {"augmentation": False}
    blend_with: tuple[BlendPart, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "EnergonSplitConfig":
        if min(self.ratio) < 0 or self.ratio[0] <= 0 or self.ratio[1] <= 0:
            raise ValueError(
                f"ratio needs parts for training and validation above 0 and none below 0, got {self.ratio}"
            )
        paths = [part.path for part in self.blend_with]
        if len(set(paths)) < len(paths):
            raise ValueError("blend_with names a dataset twice; give it one weight")
        return self


def divide(items: list[str], ratio: tuple[float, float, float]) -> dict[str, list[str]]:
    """Divide shards into splits, as energon does: each split ends at the whole number below its share of all.

    Energon itself adds the shares as floating-point numbers, and at 7,2,1 loses the last shard of ten to rounding.

    Returns:
        Split to its items, in their order; every item is in one split.
    """
    parts = [Fraction(str(part)) for part in ratio]
    ends = [len(items) * sum(parts[: number + 1]) // sum(parts) for number in range(len(parts))]
    return {split: items[start:end] for split, start, end in zip(SPLITS, [0, *ends], ends, strict=False)}


def split_problem(shards: int, ratio: tuple[float, float, float]) -> str:
    """Return why a number of shards can't be divided, or an empty text."""
    splits: dict[str, Any] = divide([""] * shards, ratio)
    starved = [name for name, part in zip(SPLITS, ratio, strict=True) if part > 0 and not splits[name]]
    needed = -(-sum(map(Fraction, map(str, ratio))) // min(Fraction(str(part)) for part in ratio if part > 0))
    if not starved:
        return ""
    return f"{shards} shards divided {ratio} leave none for {' and '.join(starved)}; at least {needed} are needed"
