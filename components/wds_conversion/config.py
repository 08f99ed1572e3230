"""Settings of the WebDataset conversion."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from components.data.image_settings import ImageCheck

Decontamination = Literal["drop", "report", "off"]

EVALUATION_PICTURES = "evaluation_pictures.json"
"""In a raw dataset: file of ground truth to the names of its pictures."""

SEEN_FILE = "test_pictures_seen.jsonl"
"""Samples that show a picture of the evaluation, in the stage's folder."""

QUESTIONS_FOLDER = "questions"
"""Hashes of the questions that the samples ask, a file for every shard, in the stage's folder."""

SHARDS_FOLDER = "shards"
"""Where the shards are in the stage's folder."""


class WdsConversionConfig(BaseModel):
    """How a raw dataset becomes shards.

    Attributes:
        annotations: Name of the JSON file in the raw dataset folder, in LLaVA's layout.
        prefix: Start of the shards' names, and the name of this use of the stage: "pretrain" or "sft".
        samples_per_shard (samples): Most samples of a shard.
        min_shards: Least number of shards; of fewer entries, each is a shard. Energon splits by shard: ten give nine parts for
            training and one for validation.
        check_images: How broken pictures are found. "decode" decodes them (JPEGs at an eighth of their scale, which reads
            all their data), and finds all that training would stumble over; "header" reads the header and looks for the end,
            and finds what was cut off; "off" only asks for a known format. Checksums in zips are verified in any case.
        decontaminate: What happens to samples that show a picture of the evaluation: the same file, the same picture in
            another file, or nearly the same one (encoded anew, resized, cropped by up to a twentieth). "drop" leaves them out,
            "report" counts and lists them, "off" does not look.
        max_reject_share (fraction): Share of entries that may be rejected, from 0 to 1; more fails the stage.
        parallel_tasks: Tasks of the pipeline that share the work, for clusters: each writes a range of the shards. Fixed when
            the pipeline is compiled; the shards do not depend on it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    annotations: str = Field(pattern=r"^[^/\\]+\.json$")
    prefix: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    samples_per_shard: int = Field(default=10_000, gt=0)
    min_shards: int = Field(default=10, gt=0)
    check_images: ImageCheck = "decode"
    decontaminate: Decontamination = "drop"
    max_reject_share: float = Field(default=0.01, ge=0, le=1)
    parallel_tasks: int = Field(default=1, gt=0, le=1000)

    @field_validator("check_images", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return {False: "off", True: "decode"}[value] if isinstance(value, bool) else value

    @field_validator("decontaminate", mode="before")
    @classmethod
    def _so_it_does_here(cls, value: Any) -> Any:
        return {False: "off", True: "drop"}[value] if isinstance(value, bool) else value

    @property
    def content(self) -> "WdsConversionConfig":
        """The settings that decide about the shards' bytes, the others at their defaults."""
        return self.model_copy(update={"parallel_tasks": 1})
