"""Which tensors of Hugging Face's layout make up which parameter of megatron-core's, and back.

A rule joins source tensors into one parameter and can split the parameter again, so that the same table serves
conversion and export. Parameters are the whole model's (tensor-parallel size 1, plain layers); megatron-core's
distributed checkpoint cuts them for any other size.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorRule:
    """How one parameter is made.

    Attributes:
        target: Name of the parameter within its part.
        sources: Names of the source tensors, in the order that `join` takes and `split` gives.
        join: Source tensors to the parameter.
        split: The parameter to the source tensors.
    """

    target: str
    sources: tuple[str, ...]
    join: Callable[[Sequence[Tensor]], Tensor]
    split: Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class DropRule:
    """Source tensors that are left out on purpose.

    Attributes:
        pattern: Regular expression over the whole name.
        reason: Why the model does without them.
    """

    pattern: str
    reason: str


def drop_reason(name: str, drops: Iterable[DropRule]) -> str | None:
    """Return why a source tensor is left out, None if it is not."""
    return next((drop.reason for drop in drops if re.fullmatch(drop.pattern, name)), None)


def same(target: str, source: str) -> TensorRule:
    """Return the rule of a parameter that is a source tensor as it is."""
    return TensorRule(target, (source,), lambda sources: sources[0], lambda parameter: [parameter])


def same_affine(target: str, source: str) -> list[TensorRule]:
    """Return the rules of a weight and a bias that are source tensors as they are."""
    return [same(f"{target}.{kind}", f"{source}.{kind}") for kind in ("weight", "bias")]


def class_token(source: str) -> TensorRule:
    """Return the rule of the class token: [hidden] becomes [1, 1, hidden]."""
    return TensorRule(
        "class_token",
        (source,),
        lambda sources: sources[0].view(1, 1, -1),
        lambda parameter: [parameter.flatten()],
    )


def stacked(target: str, sources: tuple[str, ...]) -> TensorRule:
    """Rows of the first source, then those of the next: megatron's gated MLP is [gate; up]."""
    count = len(sources)
    return TensorRule(
        target, sources, lambda tensors: torch.cat(list(tensors)), lambda parameter: list(parameter.chunk(count))
    )


def padded_rows(target: str, source: str, rows: int, padded: int) -> TensorRule:
    """Return the rule of a vocabulary's rows, followed by zero rows up to the padded size."""
    padding = padded - rows

    def join(sources: Sequence[Tensor]) -> Tensor:
        return torch.cat([sources[0], sources[0].new_zeros(padding, sources[0].shape[1])]) if padding else sources[0]

    return TensorRule(target, (source,), join, lambda parameter: [parameter[:rows]])


def attention_input(target: str, sources: tuple[str, ...], heads: int, groups: int, width: int) -> TensorRule:
    """Query, key and value projections, interleaved per group: the group's queries, its key, its value."""
    queries = heads // groups

    def join(tensors: Sequence[Tensor]) -> Tensor:
        query, key, value = tensors
        rest = query.shape[1:]
        blocks = [query.view(groups, queries * width, *rest), *(t.view(groups, width, *rest) for t in (key, value))]
        return torch.cat(blocks, dim=1).reshape(-1, *rest)

    def split(parameter: Tensor) -> list[Tensor]:
        rest = parameter.shape[1:]
        grouped = parameter.view(groups, (queries + 2) * width, *rest)
        return [part.reshape(-1, *rest) for part in grouped.split([queries * width, width, width], dim=1)]

    return TensorRule(target, sources, join, split)
