"""energon's hooks: how a raw sample is encoded, how samples are joined for their way to the trainer, what happens to bad ones."""

import json
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from megatron.energon import Cooker, Sample, SkipSample, TaskEncoder, basic_sample_keys, edataclass
from megatron.energon.errors import FatalSampleError
from megatron.energon.task_encoder.base import stateless
from torch import Tensor

from components.data.blend import CONVERSATION_FIELD, picture_fields
from components.data.decode import open_picture
from components.data.image_settings import ImageSettings
from components.data.packing import EncodedSample, truncate
from components.data.prompt import encode_conversation
from components.data.prompt_text import PromptFormat
from components.data.tokenizer import ChatTokenizer
from components.errors import InputError

_MOST_IN_A_ROW = 100
_HOPELESS = f"{_MOST_IN_A_ROW} samples in a row fail. The last one is "

READING_ERRORS = (FatalSampleError, OSError, tarfile.TarError, ValueError)
"""What energon's loader raises when a dataset can't be read (`ValueError`: a shard ends between two samples); bad samples are
only noted."""


class Skip(NamedTuple):
    """A sample that was left out, by its key, and why."""

    key: str
    reason: str


@edataclass
class EncodedChunk(Sample):
    """Some samples as few tensors, which pass from worker to trainer much faster than many small ones.

    Attributes:
        keys: Keys of the samples.
        lengths: Tokens of every sample.
        pictures: Pictures of every sample.
        tokens: All samples' tokens, end to end; so for the other tensors.
        labels: Labels.
        pixels: Pixels.
        valid: Area of every picture that holds it.
        truncated: How many of the samples were cut.
        skips: Samples left out since the chunk before.
    """

    keys: list[str]
    lengths: list[int]
    pictures: list[int]
    tokens: Tensor
    labels: Tensor
    pixels: Tensor
    valid: Tensor
    truncated: int
    skips: list[Skip]

    def samples(self) -> list[EncodedSample]:
        """Take the samples apart."""
        parts = zip(
            self.keys,
            self.tokens.split(self.lengths),
            self.labels.split(self.lengths),
            self.pixels.split(self.pictures),
            self.valid.split(self.pictures),
            strict=True,
        )
        return [EncodedSample(*part) for part in parts]


@edataclass
class _RawSample(Sample):
    """A sample as it lies in the shard: this is what the shuffle buffer holds."""

    pictures: list[bytes]
    conversation: bytes


@edataclass
class EncodedRecord(Sample):
    """An encoded sample on its way through energon."""

    sample: EncodedSample
    cut: bool


@stateless
def _cook(raw: dict[str, Any]) -> _RawSample:
    pictures = [raw[field] for field in picture_fields(raw)]
    return _RawSample(**basic_sample_keys(raw), pictures=pictures, conversation=raw[CONVERSATION_FIELD])


class SampleEncoder(TaskEncoder):
    """Encodes samples, and notes those that can't be.

    Args:
        prompt_format: "plain" or "instruct".
        sequence_length: Most tokens of a sample; a longer one's end is cut.
        tokenizer: The model's tokenizer.
        image: How pictures enter the model.

    Attributes:
        skips: Samples left out since the last chunk.
    """

    cookers = (Cooker(_cook),)
    decoder = None

    def __init__(
        self,
        prompt_format: PromptFormat,
        sequence_length: int,
        tokenizer: ChatTokenizer,
        image: ImageSettings,
    ) -> None:
        super().__init__()
        self._prompt_format = prompt_format
        self._sequence_length = sequence_length
        self._tokenizer = tokenizer
        self._image = image
        self._in_a_row = 0
        self.skips: list[Skip] = []

    def note_skip(self, error: Exception, sample: Any, sources: Any = None) -> None:
        """Note a sample that can't be used; also energon's error handler, for what it can't read."""
        key = sample.get("__key__") if isinstance(sample, dict) else getattr(sample, "__key__", None)
        self.skips.append(Skip(key or "unknown", str(error)))

    @stateless
    def encode_sample(self, sample: _RawSample) -> EncodedRecord:
        """Decode the pictures and encode the conversation.

        Raises:
            SkipSample: It can't be used, and was noted.
            FatalSampleError: So were the ninety-nine before it.
        """
        try:
            encoded = encode_conversation(
                json.loads(sample.conversation),
                [open_picture(content) for content in sample.pictures],
                tokenizer=self._tokenizer,
                settings=self._image,
                prompt_format=self._prompt_format,
                key=sample.__key__,
            )
            fitting = truncate(encoded, self._sequence_length, self._tokenizer.image)
        except Exception as error:  # decoders raise many kinds
            # Not left to energon: it prints several lines for every one.
            self.note_skip(error, sample)
            self._in_a_row += 1
            if self._in_a_row >= _MOST_IN_A_ROW:
                raise FatalSampleError(f"{_HOPELESS}{sample.__key__}: {error}") from None
            raise SkipSample from None
        self._in_a_row = 0
        return EncodedRecord.derive_from(sample, sample=fitting, cut=fitting is not encoded)

    @stateless
    def batch(self, samples: list[EncodedRecord]) -> EncodedChunk:
        """Join samples, and hand over what was skipped since the last chunk."""
        parts = [sample.sample for sample in samples]
        skips, self.skips = self.skips, []
        return EncodedChunk(
            __key__=parts[0].key,
            __restore_key__=(),
            keys=[part.key for part in parts],
            lengths=[part.length for part in parts],
            pictures=[part.pixels.shape[0] for part in parts],
            tokens=torch.cat([part.tokens for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            pixels=torch.cat([part.pixels for part in parts]),
            valid=torch.cat([part.valid for part in parts]),
            truncated=sum(sample.cut for sample in samples),
            skips=skips,
        )


def reading_error(error: Exception, blend: Path) -> InputError:
    """Return what a person needs of one of `READING_ERRORS`, which energon and torch wrap into texts with tracebacks.

    Args:
        error: What came out of energon's loader.
        blend: The blend file that it read.
    """
    text = str(error).strip() or repr(error)
    _, found, reason = text.rpartition(_HOPELESS)
    if found:
        return InputError(f"{blend} can't be used: {found}{reason.splitlines()[0].removesuffix('.')}")
    return InputError(
        f"A shard of {blend} can't be read: {text.splitlines()[-1]}. Compare the shards with their folder's manifest.json; "
        "if one is missing or cut off, delete that folder and run the energon split again."
    )
