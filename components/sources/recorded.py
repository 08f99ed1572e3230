"""What is known of streamed datasets before they are read: written by the download, read by the conversion.

In a raw dataset `pretrain.mixture.json` stands beside `pretrain.json`, which then holds the first entries alone, as examples.
"""

import bisect
import itertools
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import InputError
from components.sources.config import Filters, Sampling, Turns
from components.sources.tables.table import Mark
from components.storage.atomic import write_text
from components.storage.config import TransferConfig

_SUFFIX = ".mixture.json"


class RecordedFile(BaseModel):
    """A file with rows.

    Attributes:
        name: Its name below the dataset's URI.
        size: Its bytes.
        validator: What changes with its content: ETag, object id, or time of change.
        rows: Its rows.
        marks: Number of a row, and where in the file it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    size: int | None
    validator: str
    rows: int
    marks: tuple[Mark, ...]


class CaptionQuestions(BaseModel):
    """Questions that fine-tuning gets after captions: which of four captions describes the picture?

    Attributes:
        seed: Of wrong options and letters.
        form: What answers them: the option's "letter" or its "text".
        captions: What wrong options are drawn from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    form: Literal["letter", "text"]
    captions: tuple[str, ...]


class RecordedDataset(BaseModel):
    """A dataset of a mixture; see `DatasetSource` for what is not explained here.

    Attributes:
        name: Its name in the mixture.
        uri: Where its files are, pinned to a commit where the scheme has commits.
        shown: The same without secrets.
        config: Its configuration.
        split: Its split.
        layout: Name of its layout.
        columns: Columns that are read, by the names that the dataset has.
        mapping: What the layout calls a column, to what the dataset calls it.
        turns: Turns that are taken.
        weight: How often training draws from it.
        cap: Most rows that are read; None for all.
        sampling: Which rows they are.
        filters: What is left out.
        files: Its files in their order.
        questions: What is asked after its captions; None for nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    uri: str
    shown: str
    config: str
    split: str
    layout: str
    columns: tuple[str, ...]
    mapping: dict[str, str]
    turns: Turns
    weight: float
    cap: int | None
    sampling: Sampling
    filters: Filters
    files: tuple[RecordedFile, ...]
    questions: CaptionQuestions | None = None

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """For every file the number of rows up to its end."""
        return tuple(itertools.accumulate(file.rows for file in self.files))

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return self.ends[-1] if self.ends else 0

    @property
    def taken(self) -> int:
        """Rows that are read: all, or as many as the cap allows."""
        return self.rows if self.cap is None else min(self.cap, self.rows)

    def row(self, number: int) -> int:
        """Return which row of the dataset the row `number` of those that are read is."""
        return number if self.sampling == "first" else number * self.rows // self.taken


class RecordedMixture(BaseModel):
    """Datasets that are drawn from together.

    Attributes:
        datasets: The datasets.
        held_out: SHA-256 of pictures that are for evaluation: samples with one of them are left out.
        transfer: How patient reading is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    datasets: tuple[RecordedDataset, ...]
    held_out: tuple[str, ...] = ()
    transfer: TransferConfig = TransferConfig()


class RowPlace(NamedTuple):
    """Where a row is: number of the file, and of the row in it."""

    file: int
    row: int


def place_of(dataset: RecordedDataset, row: int) -> RowPlace:
    """Return where a row of a dataset is."""
    file = bisect.bisect_right(dataset.ends, row)
    return RowPlace(file, row - (dataset.ends[file - 1] if file else 0))


def mixture_file(annotations: Path) -> Path:
    """Return where the mixture stands that is streamed instead of an annotation file, if there is one."""
    return annotations.with_name(annotations.name.removesuffix(".json") + _SUFFIX)


def read_mixture(path: Path) -> RecordedMixture:
    """Read a mixture.

    Raises:
        InputError: The file holds something else.
    """
    try:
        return RecordedMixture.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(
            f"{path} holds a mixture that another version wrote: "
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}. Run the download again."
        ) from error


def write_mixture(path: Path, mixture: RecordedMixture) -> None:
    """Write a mixture."""
    write_text(path, mixture.model_dump_json() + "\n")
