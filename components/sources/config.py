"""Settings of datasets that are streamed, and of mixtures of them."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from components.storage.uri import Source

DEFAULT_SPLIT = "train"

Sampling = Literal["first", "spread"]
Turns = Literal["all", "first"]


class Filters(BaseModel):
    """Which samples of a dataset are left out. What is not set leaves nothing out.

    Attributes:
        min_side (pixels): Least width and height of every picture.
        max_aspect: Largest ratio of a picture's longer to its shorter side.
        min_text (characters): Least text of all answers of a sample together.
        max_text (characters): Most text of all turns of a sample together.
        scores: Column to the least value that it must have, as FineVision's `{relevance_min: 3}`; of a list the least one
            counts, and a row without a value is left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_side: int = Field(default=0, ge=0)
    max_aspect: float | None = Field(default=None, ge=1)
    min_text: int = Field(default=0, ge=0)
    max_text: int | None = Field(default=None, gt=0)
    scores: dict[str, float] = {}

    @property
    def looks_at_pictures(self) -> bool:
        """Whether the size of pictures matters."""
        return self.min_side > 0 or self.max_aspect is not None


class DatasetSource(BaseModel):
    """A dataset that is streamed, alone or in a mixture.

    Attributes:
        uri: `hf://datasets/ORG/NAME`, or a file or folder by any other URI: parquet, arrow, JSON lines, CSV, tar shards, or
            pictures with a metadata file.
        name: Its name in shards, logs and reports; left out, the last part of the URI.
        config: Configuration (subset) of the dataset; left out where there is one alone.
        split: Split of the dataset.
        revision: Branch, tag or commit of the hub; what is read is the commit that it leads to.
        columns: Columns that are read; left out, those that the layout needs.
        layout: Name of the layout; left out, it is recognised from the columns.
        mapping: What a layout calls a column, to what the dataset calls it: `{image: photo, caption: alt}`; `a.b` is b
            within a.
        turns: "all" turns of a conversation, or the "first" question and answer alone, as pretraining on captions wants.
        weight: How often training draws from it, beside the other weights.
        cap (rows): Most rows that are read; left out, all.
        sampling: Which rows they are: evenly "spread" over the dataset, or the "first" ones, which reads no more than these.
        filters: Which samples are left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: Source
    name: str = Field(default="", pattern=r"^[A-Za-z0-9_-]{0,40}$")
    config: str = ""
    split: str = Field(default=DEFAULT_SPLIT, min_length=1)
    revision: str = ""
    columns: tuple[str, ...] = ()
    layout: str = ""
    mapping: dict[str, str] = {}
    turns: Turns = "all"
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    cap: int | None = Field(default=None, gt=0)
    sampling: Sampling = "spread"
    filters: Filters = Filters()

    @field_validator("layout")
    @classmethod
    def _known(cls, layout: str) -> str:
        from components.sources.layouts.registry import LAYOUTS

        names = [known.name for known in LAYOUTS]
        if layout and layout not in names:
            raise ValueError(f"there is no layout {layout!r}; there are {', '.join(names)}")
        return layout

    @model_validator(mode="after")
    def _revision_of_the_hub(self) -> Self:
        if self.revision and not self.uri.startswith("hf://"):
            raise ValueError("revision is of the hub; this uri is of another scheme")
        if self.revision and "@" in self.uri:
            raise ValueError("the uri names a revision already (@): give one of the two")
        return self

    @property
    def full_uri(self) -> str:
        """The URI with the revision in it."""
        if not self.revision:
            return self.uri
        parts = self.uri.removeprefix("hf://").split("/")
        owner = 3 if parts[0] == "datasets" else 2
        return "hf://" + "/".join([*parts[: owner - 1], f"{parts[owner - 1]}@{self.revision}", *parts[owner:]])


Mixture = Annotated[tuple[DatasetSource, ...], Field(max_length=1000)]
"""Datasets that are drawn from together."""
