"""Packing: properties over random samples."""

import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.packing import IGNORED_LABEL, EncodedSample, assign, pack, truncate
from components.errors import InputError

IMAGE_TOKEN = -5
LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 1)), min_size=1, max_size=30)


def _sample(number: int, length: int, pictures: int = 0, prompt: int = 0) -> EncodedSample:
    tokens = torch.arange(length) + 1000 * number
    labels = tokens + 1
    labels[:prompt] = IGNORED_LABEL
    pixels = torch.full((pictures, 3, 4, 4), number % 256, dtype=torch.uint8)
    return EncodedSample(f"s{number}", tokens, labels, pixels, torch.full((pictures, 2), 4))


@settings(deadline=None, max_examples=150)
@given(LENGTHS, st.integers(40, 100))
def test_every_sample_once_whole_and_apart(lengths: list[tuple[int, int]], limit: int) -> None:
    samples = [_sample(number, length, pictures) for number, (length, pictures) in enumerate(lengths)]
    batches = pack(samples, limit)
    by_key = {sample.key: sample for sample in samples}
    seen = []
    for batch in batches:
        bounds = batch.cu_seqlens.tolist()
        assert batch.cu_seqlens.dtype == torch.int32
        assert bounds[0] == 0
        assert bounds[-1] == len(batch.tokens) == len(batch.labels) == len(batch.positions) <= limit
        pictures = 0
        for key, start, end in zip(batch.keys, bounds[:-1], bounds[1:], strict=True):
            sample = by_key[key]
            assert batch.tokens[start:end].equal(sample.tokens)
            assert batch.labels[start:end].equal(sample.labels)
            assert batch.positions[start:end].tolist() == list(range(end - start))
            count = len(sample.pixels)
            assert batch.pixels[pictures : pictures + count].equal(sample.pixels)
            pictures += count
            seen.append(key)
        assert len(batch.pixels) == len(batch.valid) == pictures
        assert batch.max_seqlen == max(end - start for start, end in pairwise(bounds))
    assert sorted(seen) == sorted(by_key)


def _first_fit_decreasing(lengths: list[int], limit: int) -> int:
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        for number, room in enumerate(free):
            if room >= length:
                free[number] -= length
                break
        else:
            free.append(limit - length)
    return len(free)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(1, 100), max_size=40), st.integers(100, 300))
def test_few_sequences_of_about_equal_length(lengths: list[int], limit: int) -> None:
    members = assign(lengths, limit)
    sizes = [sum(lengths[index] for index in sequence) for sequence in members]
    assert sorted(index for sequence in members for index in sequence) == list(range(len(lengths)))
    assert all(sequence == sorted(sequence) for sequence in members)
    assert members == sorted(members)
    assert max(sizes, default=0) <= limit
    assert -(-sum(lengths) // limit) <= len(members) <= _first_fit_decreasing(lengths, limit)
    # A sequence got its last and shortest sample when it was the emptiest.
    smallest = [min(lengths[index] for index in sequence) for sequence in members]
    if len(members) < _first_fit_decreasing(lengths, limit):
        assert all(size - least <= min(sizes) for size, least in zip(sizes, smallest, strict=True))


def test_captions_fill_sequences_that_fit_a_whole_number_of_them() -> None:
    # 128 samples of 576 image tokens and a caption, eight to a sequence.
    rng = random.Random(0)
    lengths = [578 + round(rng.lognormvariate(3.1, 0.45)) for _ in range(128)]
    sizes = [sum(lengths[index] for index in sequence) for sequence in assign(lengths, 4928)]
    assert len(sizes) == 16
    assert max(sizes) - min(sizes) < 60
    assert sum(lengths) / (16 * 4928) > 0.97
    assert _first_fit_decreasing(lengths, 4928) == 17


@settings(deadline=None, max_examples=30)
@given(LENGTHS)
def test_packing_is_deterministic(lengths: list[tuple[int, int]]) -> None:
    samples = [_sample(number, length) for number, (length, _) in enumerate(lengths)]
    assert [batch.keys for batch in pack(samples, 50)] == [batch.keys for batch in pack(samples, 50)]


def test_too_long_is_an_error() -> None:
    with pytest.raises(InputError, match="'s0' has 30 tokens, the sequence length is 20"):
        pack([_sample(0, 30, prompt=5), _sample(1, 8)], 20)


def test_cut_sample_keeps_its_beginning_and_fits() -> None:
    samples = [_sample(0, 30, prompt=5), _sample(1, 8)]
    batches = pack([truncate(sample, 20, IMAGE_TOKEN) for sample in samples], 20)
    assert [(batch.keys, len(batch.tokens)) for batch in batches] == [(["s0"], 20), (["s1"], 8)]
    assert batches[0].labels.tolist() == samples[0].labels[:20].tolist()


def test_truncation_never_leaves_a_sample_without_answer() -> None:
    with pytest.raises(InputError, match="no answer within the first 10"):
        truncate(_sample(0, 30, prompt=10), 10, IMAGE_TOKEN)
    assert truncate(_sample(0, 30, prompt=9), 10, IMAGE_TOKEN).length == 10


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(["text", "answer", "picture"]), min_size=1, max_size=8), st.integers(1, 30))
def test_a_picture_is_never_cut(parts: list[str], length: int) -> None:
    tokens: list[int] = []
    labels: list[int] = []
    for number, part in enumerate([*parts, "answer"]):
        tokens += [IMAGE_TOKEN] * 4 if part == "picture" else [10 + number] * 3
        labels += [9] * 3 if part == "answer" else [IGNORED_LABEL] * (4 if part == "picture" else 3)
    count = parts.count("picture")
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 4, 4)
    sample = EncodedSample("s", torch.tensor(tokens), torch.tensor(labels), pixels, torch.full((count, 2), 4))
    try:
        cut = truncate(sample, length, IMAGE_TOKEN)
    except InputError:
        assert all(label == IGNORED_LABEL for label in labels[:length])
        return
    assert cut.length <= length or cut is sample
    assert cut.tokens.equal(sample.tokens[: cut.length])
    assert cut.labels.equal(sample.labels[: cut.length])
    shown = int((cut.tokens == IMAGE_TOKEN).sum())
    assert shown == 4 * len(cut.pixels) == 4 * len(cut.valid)
    assert cut.pixels.equal(sample.pixels[: shown // 4])
    if cut.length < min(length, sample.length):  # what follows is a picture that does not fit
        assert sample.tokens[cut.length : cut.length + 4].tolist() == [IMAGE_TOKEN] * 4
        assert cut.length + 4 > length


def test_to_moves_every_tensor() -> None:
    batch = pack([_sample(0, 5, 1)], 10)[0].to("meta")
    for tensor in (batch.tokens, batch.positions, batch.cu_seqlens, batch.labels, batch.pixels, batch.valid):
        assert tensor.device.type == "meta"
