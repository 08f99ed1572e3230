"""Rows of an annotation file in LLaVA's layout, with the places of their pictures."""

import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.entry import printable
from components.data.image_roots import ImageReader, Place
from components.data.image_settings import ImageCheck
from components.wds_conversion.entries import read_entries
from components.wds_conversion.rows import ConvertedRow, Reject
from components.wds_conversion.samples import RejectedEntry, sample_fields


@dataclass(frozen=True)
class EntryRows:
    """See `ShardRows`.

    Attributes:
        annotations: The annotation file.
        offset: Byte offset of the first row's entry in it.
        keys: Key of every row.
        places: Where the pictures of every row lie; None for one that was not found.
        sources: The zips and folders that the places refer to.
    """

    annotations: Path
    offset: int
    keys: Sequence[str]
    places: Sequence[tuple[Place | None, ...]]
    sources: tuple[Path, ...]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.keys)

    def converted(self, first_row: int, check: ImageCheck) -> Generator[ConvertedRow]:
        """Yield what becomes of every row."""
        entries = itertools.islice(read_entries(self.annotations, self.offset), len(self.keys))
        with ImageReader(self.sources) as reader:
            for number, (key, places, (_, entry)) in enumerate(zip(self.keys, self.places, entries, strict=True)):
                try:
                    yield ConvertedRow(samples=[(key, sample_fields(entry, places, reader, check))])
                except RejectedEntry as error:
                    yield ConvertedRow(reject=_reject(first_row + number, entry, error))


def _reject(row: int, entry: Any, error: RejectedEntry) -> Reject:
    named = entry if isinstance(entry, dict) else {}
    texts = (str(named.get("id", "")), str(named.get("image", "")), error.cause, str(error))
    return Reject(row, *(printable(text) for text in texts))
