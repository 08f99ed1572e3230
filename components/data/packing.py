"""Samples and packed micro-batches: several samples in one sequence, kept apart by their boundaries."""

import dataclasses
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from components.errors import InputError

IGNORED_LABEL = -100


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
    """

    tokens: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    labels: Tensor
    pixels: Tensor
    valid: Tensor
    keys: list[str]

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


def pictures_within(sample: EncodedSample, length: int, image_token: int) -> tuple[int, int]:
    """Return how many whole pictures a sample's first tokens hold, and how many tokens there are before one that is cut.

    Args:
        sample: The sample.
        length: Number of tokens.
        image_token: Token that stands for a part of a picture.
    """
    pictures = sample.pixels.shape[0]
    if not pictures:
        return 0, length
    places = (sample.tokens == image_token).nonzero().flatten()
    of_each = places.numel() // pictures
    whole, rest = divmod(int((places < length).sum()), of_each)
    return whole, int(places[whole * of_each]) if rest else length


def truncate(sample: EncodedSample, length: int, image_token: int) -> EncodedSample:
    """Cut a sample's end off so that at most `length` tokens remain; shorter samples come back as they are.

    A picture that the cut would go through goes away wholly, and so do those after it.

    Args:
        sample: The sample.
        length: Most tokens.
        image_token: Token that stands for a part of a picture.

    Raises:
        InputError: No answer token would be left to train on.
    """
    if sample.length <= length:
        return sample
    pictures, kept = pictures_within(sample, length, image_token)
    # A copy, not a view: a view would keep the whole sample in memory and in transfers between processes.
    labels = sample.labels[:kept].clone()
    if not bool((labels != IGNORED_LABEL).any()):
        raise InputError(
            f"Sample {sample.key!r} has {sample.length} tokens and no answer within the first {length}. "
            "Raise the sequence length or leave the sample out."
        )
    return dataclasses.replace(
        sample,
        tokens=sample.tokens[:kept].clone(),
        labels=labels,
        pixels=sample.pixels[:pictures].clone(),
        valid=sample.valid[:pictures].clone(),
    )


def pack(samples: Sequence[EncodedSample], sequence_length: int) -> list[PackedBatch]:
    """Put samples into few sequences of at most `sequence_length` tokens, and make those about equally long.

    A sample is never split, and a sequence is never padded: it ends with its last sample. The result depends on the
    samples and their order alone.

    Args:
        samples: Samples of one step.
        sequence_length: Most tokens of one packed sequence.

    Returns:
        Batches ordered by their first sample; samples of a batch are in their given order.

    Raises:
        InputError: A sample is longer; see `truncate`.
    """
    for sample in samples:
        if sample.length > sequence_length:
            raise InputError(
                f"Sample {sample.key!r} has {sample.length} tokens, the sequence length is {sequence_length}. "
                "Raise the sequence length."
            )
    sequences = assign([sample.length for sample in samples], sequence_length)
    return [_join([samples[index] for index in members]) for members in sequences]


def assign(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Decide which samples share a sequence.

    The number of sequences is the smallest for which giving every sample, longest first, to the emptiest sequence stays
    within the capacity; it is never more than first-fit decreasing needs. Sequences of about equal length need the least
    memory at their peak and keep a step's micro-batches alike.

    Args:
        lengths: Tokens of every sample, none above `capacity`.
        capacity: Most tokens of a sequence.

    Returns:
        Indices of the samples of every sequence, ascending, the sequences ordered by their first.
    """
    longest_first = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    first_fit = _first_fit(lengths, longest_first, capacity)
    fewest = -(-sum(lengths) // capacity)
    for count in range(max(fewest, 1), len(first_fit) + 1):
        balanced = _balance(lengths, longest_first, count)
        if max(sum(lengths[index] for index in members) for members in balanced) <= capacity:
            return sorted(sorted(members) for members in balanced)
    return sorted(sorted(members) for members in first_fit)


def _first_fit(lengths: Sequence[int], longest_first: Sequence[int], capacity: int) -> list[list[int]]:
    """Give every sample to the first sequence that has room."""
    sequences: list[list[int]] = []
    free: list[int] = []
    for index in longest_first:
        place = next((number for number, room in enumerate(free) if room >= lengths[index]), None)
        if place is None:
            place = len(sequences)
            sequences.append([])
            free.append(capacity)
        sequences[place].append(index)
        free[place] -= lengths[index]
    return sequences


def _balance(lengths: Sequence[int], longest_first: Sequence[int], count: int) -> list[list[int]]:
    """Give every sample to the emptiest of `count` sequences (longest processing time first)."""
    sequences: list[list[int]] = [[] for _ in range(count)]
    filled = [(0, number) for number in range(count)]
    for index in longest_first:
        length, number = filled[0]
        sequences[number].append(index)
        heapq.heapreplace(filled, (length + lengths[index], number))
    return sequences


def _join(samples: Sequence[EncodedSample]) -> PackedBatch:
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
    )
