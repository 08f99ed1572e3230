"""Rows of a streamed dataset."""

import hashlib
import json
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial

from components.data.blend import CONVERSATION_FIELD, picture_field
from components.data.entry import check_text, printable
from components.data.image_settings import ImageCheck
from components.errors import InputError
from components.sources.filters import picture_cause, score_cause, text_cause
from components.sources.folder import SourceFolder
from components.sources.pictures import MissingPicture, picture_bytes
from components.sources.reading import read_rows, row_samples
from components.sources.recorded import RecordedDataset
from components.sources.sample import PictureRef, Sample
from components.sources.tables.table import BadRow, Row
from components.storage.config import TransferConfig
from components.wds_conversion.asked_captions import AskedCaptions
from components.wds_conversion.rows import ConvertedRow, Fields, LeftOut, Reject
from components.wds_conversion.samples import RejectedEntry, picture_extension

HELD_OUT = "held_out"
"""Cause of samples with a picture that is for evaluation."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class TableRows:
    """See `ShardRows`.

    Attributes:
        dataset: The dataset.
        first: Number of the first row, of those that are taken.
        last: Number of the row after the last one.
        held_out: SHA-256 of pictures that are for evaluation.
        transfer: How patient reading is.
    """

    dataset: RecordedDataset
    first: int
    last: int
    held_out: frozenset[str]
    transfer: TransferConfig

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.last - self.first

    def converted(self, first_row: int, check: ImageCheck) -> Generator[ConvertedRow]:
        """Yield what becomes of every row."""
        dataset = self.dataset
        names = [file.name for file in dataset.files]
        folder = SourceFolder(dataset.uri, f"dataset {dataset.name}", self.transfer, names)
        questions = AskedCaptions(dataset.questions) if dataset.questions else None
        for number, (file, row) in enumerate(read_rows(dataset, folder, self.first, self.last)):
            place = dataset.row(self.first + number)
            try:
                yield self._row(place, row, partial(picture_bytes, folder=folder, file=file), check, questions)
            except RejectedEntry as error:
                reject = Reject(first_row + number, f"{dataset.name}-{place}", "", error.cause, printable(str(error)))
                yield ConvertedRow(reject=reject)

    def _row(
        self, place: int, row: Row | BadRow, load: "_Load", check: ImageCheck, questions: AskedCaptions | None
    ) -> ConvertedRow:
        filters = self.dataset.filters
        try:
            samples = row_samples(self.dataset, row)
        except InputError as error:
            raise RejectedEntry("bad_row", str(error)) from error
        if not isinstance(row, BadRow) and (cause := score_cause(filters, row)):
            return ConvertedRow(left_out=[LeftOut(cause)] * len(samples))
        loaded: dict[PictureRef, bytes] = {}
        converted = ConvertedRow()
        for number, sample in enumerate(samples):
            key = f"{self.dataset.name}-{place:09d}" + (f"-{number}" if len(samples) > 1 else "")
            if cause := text_cause(filters, sample.conversation):
                converted.left_out.append(LeftOut(cause))
                continue
            pictures = [_loaded(ref, loaded, load) for ref in sample.pictures]
            cause = picture_cause(filters, pictures) or self._held_out(pictures)
            if cause:
                converted.left_out.append(LeftOut(cause, tuple(pictures)))
            else:
                asked = questions.after(sample, samples, key) if questions else sample
                converted.samples.append((key, _fields(asked, pictures, check)))
        return converted

    def _held_out(self, pictures: list[bytes]) -> str:
        if self.held_out and any(hashlib.sha256(content).hexdigest() in self.held_out for content in pictures):
            return HELD_OUT
        return ""


_Load = partial[bytes]


def _loaded(ref: PictureRef, loaded: dict[PictureRef, bytes], load: _Load) -> bytes:
    """Return a picture; five captions of one don't fetch it five times."""
    if ref not in loaded:
        try:
            loaded[ref] = load(ref)
        except MissingPicture as error:
            raise RejectedEntry("missing_picture", str(error)) from error
    return loaded[ref]


def _fields(sample: Sample, pictures: list[bytes], check: ImageCheck) -> Fields:
    """Return the fields of a sample; of several pictures each has its number before its extension."""
    try:
        check_text(sample.conversation)
    except InputError as error:
        raise RejectedEntry("bad_conversation", str(error)) from error
    extensions = [picture_extension(content, check) for content in pictures]
    names = [picture_field(number, len(pictures), extension) for number, extension in enumerate(extensions)]
    return [*zip(names, pictures, strict=True), (CONVERSATION_FIELD, _ENCODER.encode(sample.conversation).encode())]
