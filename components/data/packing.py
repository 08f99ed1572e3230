"""Samples and packed micro-batches: several samples in one sequence, kept apart by their boundaries."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from components.errors import InputError

IGNORED_LABEL = -100

OverlongPolicy = Literal["error", "truncate"]


@dataclass(frozen=True)
class EncodedSample:
    """One sample, ready for the model.

    Attributes:
        key: Key of the sample in its dataset.
        tokens: int64 [L]; every picture stands as `ImageSettings.tokens` repetitions of the image token.
        labels: int64 [L]; the token that follows if it belongs to an answer, else -100.
        pixels: uint8 [n_img, 3, size, size] in the order of the image tokens.
        valid: int64 [n_img, 2], height and width of the area that holds the picture.
    """

    key: str
    tokens: Tensor
    labels: Tensor
    pixels: Tensor
    valid: Tensor

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.tokens.shape[0]


@dataclass
class PackedBatch:
    """Samples laid end to end in one sequence; attention must not cross `cu_seqlens`.

    Attributes:
        tokens: int64 [T].
        positions: int64 [T], from 0 within every sample.
        cu_seqlens: int32 [S + 1], start of every sample and the end of the last one.
        max_seqlen: Length of the longest sample.
        labels: int64 [T], the next token where it is trained, else -100.
        pixels: uint8 [N, 3, H, W], in the order of the image tokens.
        valid: int64 [N, 2], height and width of the area that holds the picture.
        keys: Keys of the S samples.
        truncated: How many of the samples were cut to the sequence length.
    """

    tokens: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    labels: Tensor
    pixels: Tensor
    valid: Tensor
    keys: list[str]
    truncated: int = 0

    def to(self, device: torch.device | str) -> Self:
        """Return the batch with all its tensors on `device`."""
        return dataclasses.replace(
            self,
            tokens=self.tokens.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            cu_seqlens=self.cu_seqlens.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            pixels=self.pixels.to(device, non_blocking=True),
            valid=self.valid.to(device, non_blocking=True),
        )


def truncate(sample: EncodedSample, length: int) -> EncodedSample:
    """Cut a sample's end off so that `length` tokens remain; shorter samples come back as they are.

    Raises:
        InputError: No answer token would be left to train on. As answers follow the picture, this also means that a
            picture is never cut.
    """
    if sample.length <= length:
        return sample
    # A copy, not a view: a view would keep the whole sample in memory and in transfers between processes.
    labels = sample.labels[:length].clone()
    if not bool((labels != IGNORED_LABEL).any()):
        raise InputError(
            f"Sample {sample.key!r} has {sample.length} tokens and no answer within the first {length}. "
            "Raise the sequence length or leave the sample out."
        )
    return dataclasses.replace(sample, tokens=sample.tokens[:length].clone(), labels=labels)


def pack(
    samples: Sequence[EncodedSample], sequence_length: int, overlong: OverlongPolicy = "error"
) -> list[PackedBatch]:
    """Put samples into as few sequences of at most `sequence_length` tokens as first-fit decreasing finds.

    A sample is never split. The result depends on the samples and their order alone.

    Args:
        samples: Samples of one step.
        sequence_length: Most tokens of one packed sequence.
        overlong: What happens to a longer sample: "error", or "truncate" (counted in `PackedBatch.truncated`).

    Returns:
        Batches ordered by their first sample; samples of a batch are in their given order.

    Raises:
        InputError: A sample is longer and `overlong` is "error", or truncation would leave it without an answer.
    """
    fitting = [_fit(sample, sequence_length, overlong) for sample in samples]
    longest_first = sorted(range(len(fitting)), key=lambda index: (-fitting[index].length, index))
    bins: list[list[int]] = []
    free: list[int] = []
    for index in longest_first:
        length = fitting[index].length
        place = next((number for number, room in enumerate(free) if room >= length), None)
        if place is None:
            bins.append([])
            free.append(sequence_length)
            place = len(bins) - 1
        bins[place].append(index)
        free[place] -= length
    batches = []
    for members in sorted(sorted(members) for members in bins):
        cut = sum(fitting[index] is not samples[index] for index in members)
        batches.append(_join([fitting[index] for index in members], cut))
    return batches


def _fit(sample: EncodedSample, sequence_length: int, overlong: OverlongPolicy) -> EncodedSample:
    if sample.length > sequence_length and overlong == "error":
        raise InputError(
            f"Sample {sample.key!r} has {sample.length} tokens, the sequence length is {sequence_length}. "
            "Raise the sequence length or let longer samples be truncated."
        )
    return truncate(sample, sequence_length)


def _join(samples: Sequence[EncodedSample], truncated: int) -> PackedBatch:
    lengths = [sample.length for sample in samples]
    return PackedBatch(
        tokens=torch.cat([sample.tokens for sample in samples]),
        positions=torch.cat([torch.arange(length) for length in lengths]),
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
        max_seqlen=max(lengths),
        labels=torch.cat([sample.labels for sample in samples]),
        pixels=torch.cat([sample.pixels for sample in samples]),
        valid=torch.cat([sample.valid for sample in samples]),
        keys=[sample.key for sample in samples],
        truncated=truncated,
    )
