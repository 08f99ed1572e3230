"""Prompts that begin alike are read once up to where they part: many questions about one picture are mostly that picture."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from components.data.packing import EncodedSample

_WORTHWHILE = 0.2  # of the tokens must be saved: attention of parted prompts is masked, and so a little slower


@dataclass(frozen=True)
class Beginnings:
    """Which samples of a packed batch are beginnings, and which go on from one.

    Attributes:
        count: The first so many samples of the batch are beginnings; each of the others is the rest of a prompt.
        of: For every rest the beginning that it goes on from.
        tokens: Tokens of all beginnings.
        longest: Tokens of the longest beginning.
        longest_rest: Tokens of the longest rest.
        longest_prompt: Tokens of the longest prompt, its beginning and its rest.
    """

    count: int
    of: tuple[int, ...]
    tokens: int
    longest: int
    longest_rest: int
    longest_prompt: int


@dataclass(frozen=True)
class PartedPrompts:
    """Prompts as a batch is packed of them.

    Attributes:
        samples: Beginnings, then rests in the prompts' order; beginnings have the pictures.
        rows: For every picture of the samples its row among the distinct ones.
        beginnings: What belongs to what.
    """

    samples: tuple[EncodedSample, ...]
    rows: tuple[int, ...]
    beginnings: Beginnings


def part_prompts(
    prompts: Sequence[EncodedSample], pictures: Sequence[Sequence[int]], image_token: int
) -> PartedPrompts | None:
    """Part prompts that show the same pictures where their tokens part; a rest has at least a prompt's last token.

    Args:
        prompts: The prompts.
        pictures: For every prompt the rows of its pictures among the distinct ones, in order.
        image_token: The token that stands for a patch of a picture.

    Returns:
        The parts; None where too little would be saved.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, shown in enumerate(pictures):
        groups.setdefault(tuple(shown), []).append(number)
    beginnings: list[EncodedSample] = []
    rows: list[int] = []
    of = [0] * len(prompts)
    for shown, members in groups.items():
        for together in _joinable([prompts[number] for number in members], members, image_token):
            length = _common([prompts[number].tokens for number in together])
            for number in together:
                of[number] = len(beginnings)
            first = prompts[together[0]]
            beginnings.append(dataclasses.replace(first, tokens=first.tokens[:length], labels=first.labels[:length]))
            rows += shown
    lengths = [beginning.length for beginning in beginnings]
    saved = sum(lengths[place] for place in of) - sum(lengths)
    if saved < _WORTHWHILE * sum(prompt.length for prompt in prompts):
        return None
    rests = [_rest(prompt, lengths[place]) for prompt, place in zip(prompts, of, strict=True)]
    return PartedPrompts(
        samples=(*beginnings, *rests),
        rows=tuple(rows),
        beginnings=Beginnings(
            count=len(beginnings),
            of=tuple(of),
            tokens=sum(lengths),
            longest=max(lengths),
            longest_rest=max(rest.length for rest in rests),
            longest_prompt=max(prompt.length for prompt in prompts),
        ),
    )


def _joinable(prompts: Sequence[EncodedSample], numbers: Sequence[int], image_token: int) -> list[list[int]]:
    """Return which prompts of the same pictures are parted together: all, where they part behind their pictures."""
    length = _common([prompt.tokens for prompt in prompts])
    if any((prompt.tokens[length:] == image_token).any() for prompt in prompts):
        return [[number] for number in numbers]
    return [list(numbers)]


def _common(tokens: Sequence[Tensor]) -> int:
    """Return how many tokens all begin with, short of the last token of the shortest."""
    shortest = min(len(one) for one in tokens) - 1
    stacked = torch.stack([one[:shortest] for one in tokens])
    differs = (stacked != stacked[0]).any(dim=0).nonzero()
    return int(differs[0]) if len(differs) else shortest


def _rest(prompt: EncodedSample, start: int) -> EncodedSample:
    return dataclasses.replace(
        prompt,
        tokens=prompt.tokens[start:],
        labels=prompt.labels[start:],
        pixels=prompt.pixels[:0],
        valid=prompt.valid[:0],
    )
