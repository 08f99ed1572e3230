"""What the rows of a dataset become, wherever they come from: samples, or the reason why there are none."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Protocol

from components.data.image_settings import ImageCheck

Fields = list[tuple[str, bytes]]
"""Fields of a sample: extension and content, the pictures first."""


TEST_PICTURE = "test_picture"
"""Cause of samples that show a picture of the evaluation."""


@dataclass(frozen=True)
class LeftOut:
    """A sample that is left out on purpose: a short cause to count by, and its pictures."""

    cause: str
    pictures: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class SeenPicture:
    """A picture of the evaluation that a sample shows.

    Attributes:
        key: The sample.
        test_picture: The picture, by its name in the raw dataset.
        likeness: How it was found; see `components.data.known_pictures.Match`.
        difference: Mean difference of a value, of 255, where the two fit best.
        trained_on: Whether the sample stays in the shards.
    """

    key: str
    test_picture: str
    likeness: str
    difference: float
    trained_on: bool


@dataclass(frozen=True)
class Reject:
    """A row that can't be used: its number and id, the picture it names, a short cause to count by, and the details."""

    row: int
    id: str
    image: str
    cause: str
    detail: str


@dataclass(frozen=True)
class ConvertedRow:
    """What became of a row.

    Attributes:
        samples: Key and fields of its samples.
        left_out: Those that are left out.
        reject: Why it can't be used.
    """

    samples: list[tuple[str, Fields]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    reject: Reject | None = None


class ShardRows(Protocol):
    """The rows of a shard. It holds where they are, not what they are, and goes to the process that writes the shard."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def converted(self, first_row: int, check: ImageCheck) -> Generator[ConvertedRow]:
        """Yield what becomes of every row, holding one at a time.

        Args:
            first_row: Number that the first row has in rejects.
            check: How broken pictures are found.

        Raises:
            InputError: The source can't be read on.
        """
