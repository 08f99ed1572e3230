"""Reads some rows of a dataset, and finds out what a model would see of them."""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from components.data.decode import open_picture
from components.data.image_settings import ImageSettings
from components.data.packing import IGNORED_LABEL, EncodedSample
from components.data.prompt import encode_conversation
from components.data.prompt_text import PromptFormat
from components.errors import InputError
from components.look.tokenizer import LookTokenizer
from components.progress import Progress
from components.sources.filters import picture_size
from components.sources.pictures import MissingPicture, picture_bytes
from components.sources.reading import read_rows, row_samples
from components.sources.recording import Looked
from components.sources.sample import Sample

IMAGE, GIVEN, LEARNT, CUT = "image", "given", "learnt", "cut"


@dataclass(frozen=True)
class LoadedSample:
    """A sample with its pictures' bytes."""

    key: str
    sample: Sample
    pictures: tuple[bytes, ...]


@dataclass(frozen=True)
class Span:
    """Tokens of one kind that follow each other: "image", "given", "learnt", or "cut", as text."""

    kind: str
    text: str


@dataclass(frozen=True)
class SeenSample:
    """A sample as the model sees it.

    Attributes:
        key: Dataset and row.
        pictures: Its pictures at the size of the model's input, as PNG.
        spans: Its tokens.
        tokens: How many they are.
        learnt: How many of them are learnt.
        sizes: Width and height of the pictures as they came.
    """

    key: str
    pictures: tuple[bytes, ...]
    spans: tuple[Span, ...]
    tokens: int
    learnt: int
    sizes: tuple[tuple[int, int], ...]


@dataclass
class Findings:
    """What was found.

    Attributes:
        rows: Rows that were looked at.
        samples: Samples that the model can learn from.
        text_only: Those without a picture.
        several_pictures: Those with more than one.
        tokens: Length of every sample.
        learnt: Learnt tokens of every sample.
        turns: Questions of every sample.
        sizes: Width and height of every picture.
        cut: Samples that are longer than the sequence.
        unusable: Cause to number of rows or samples that can't be used.
        reasons: Some of them, in words.
        shown: Samples for the page.
    """

    rows: int = 0
    samples: int = 0
    text_only: int = 0
    several_pictures: int = 0
    tokens: list[int] = field(default_factory=list)
    learnt: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    cut: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)
    shown: list[SeenSample] = field(default_factory=list)

    def refuse(self, cause: str, reason: str) -> None:
        """Note a row or a sample that can't be used."""
        self.unusable[cause] += 1
        if len(self.reasons) < _MOST_REASONS:
            self.reasons.append(reason)


_MOST_REASONS = 12


def load_samples(looked: Looked, rows: int, findings: Findings, progress: Progress) -> Iterator[LoadedSample]:
    """Yield the samples of rows that lie evenly over a dataset; what can't be used is noted.

    Args:
        looked: The dataset.
        rows: Most rows to read.
        findings: Where to note what can't be used.
        progress: Told how many rows were read.
    """
    dataset = looked.dataset.model_copy(update={"cap": rows, "sampling": "spread"})
    progress.start("reading rows", dataset.taken, "rows")
    for number, (file, row) in enumerate(read_rows(dataset, looked.folder, 0, dataset.taken)):
        findings.rows += 1
        key = f"{dataset.name}, row {dataset.row(number):,}"
        try:
            for sample in row_samples(dataset, row):
                pictures = tuple(picture_bytes(ref, looked.folder, file) for ref in sample.pictures)
                yield LoadedSample(key, sample, pictures)
        except MissingPicture as error:
            findings.refuse("missing picture", f"{key}: {error}")
        except InputError as error:
            findings.refuse("not as the layout says", f"{key}: {error}")
        progress.update(number + 1)


def see(
    loaded: Sequence[LoadedSample],
    tokenizer: LookTokenizer,
    image: ImageSettings,
    prompt_format: PromptFormat,
    sequence_length: int,
    shown: int,
    findings: Findings,
) -> None:
    """Encode samples as training does, and note what comes of them.

    Args:
        loaded: The samples.
        tokenizer: The model's tokenizer.
        image: How pictures enter the model.
        prompt_format: "plain" or "instruct".
        sequence_length: Most tokens of a sample.
        shown: Most samples to show, evenly spread over all.
        findings: Where to note.
    """
    wanted = {number * len(loaded) // shown for number in range(shown)} if len(loaded) > shown else range(len(loaded))
    for number, item in enumerate(loaded):
        try:
            pictures = [open_picture(content) for content in item.pictures]
        except InputError as error:
            findings.refuse("broken picture", f"{item.key}: {error}")
            continue
        try:
            encoded = encode_conversation(
                item.sample.conversation,
                pictures,
                tokenizer=tokenizer.chat,
                settings=image,
                prompt_format=prompt_format,
                key=item.key,
            )
        except InputError as error:
            findings.refuse(f"not in the {prompt_format} format", f"{item.key}: {error}")
            continue
        _count(item, encoded, sequence_length, findings)
        if number in wanted:
            findings.shown.append(_seen(item, encoded, tokenizer, sequence_length))


def _count(item: LoadedSample, encoded: EncodedSample, sequence_length: int, findings: Findings) -> None:
    findings.samples += 1
    findings.text_only += not item.pictures
    findings.several_pictures += len(item.pictures) > 1
    findings.tokens.append(encoded.length)
    findings.learnt.append(int((encoded.labels != IGNORED_LABEL).sum()))
    findings.turns.append(sum(turn["from"] == "human" for turn in item.sample.conversation))
    findings.sizes += _sizes(item)
    findings.cut += encoded.length > sequence_length


def _sizes(item: LoadedSample) -> list[tuple[int, int]]:
    return [size for content in item.pictures if (size := picture_size(content)) is not None]


def _seen(item: LoadedSample, encoded: EncodedSample, tokenizer: LookTokenizer, sequence_length: int) -> SeenSample:
    # A label is the token after it: the first token is never learnt.
    learnt = [False, *(encoded.labels[:-1] != IGNORED_LABEL).tolist()]
    ids = encoded.tokens.tolist()
    return SeenSample(
        key=item.key,
        pictures=tuple(_png(pixels) for pixels in encoded.pixels),
        spans=tuple(_spans(ids, learnt, tokenizer, sequence_length)),
        tokens=len(ids),
        learnt=sum(learnt),
        sizes=tuple(_sizes(item)),
    )


def _spans(ids: list[int], learnt: list[bool], tokenizer: LookTokenizer, sequence_length: int) -> Iterator[Span]:
    kinds = [
        CUT if place >= sequence_length else IMAGE if token == tokenizer.chat.image else LEARNT if trained else GIVEN
        for place, (token, trained) in enumerate(zip(ids, learnt, strict=True))
    ]
    start = 0
    for end in range(1, len(ids) + 1):
        if end < len(ids) and kinds[end] == kinds[start]:
            continue
        if kinds[start] == IMAGE:
            yield Span(IMAGE, f"{end - start} tokens of a picture")
        else:
            yield Span(kinds[start], tokenizer.written.decode(ids[start:end], skip_special_tokens=False))
        start = end


def _png(pixels: Tensor) -> bytes:
    """Return pixels (3, H, W) of 0..255 as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
