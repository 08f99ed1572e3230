"""The conversion itself: source tensors become the parameters of a megatron-core part, each accounted for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from components.errors import InputError
from components.model.families.rules import DropRule, TensorRule, drop_reason
from components.weight_conversion.tensor_source import TensorSource


@dataclass(frozen=True)
class MappedParameter:
    """One parameter of the part.

    Attributes:
        target: Its name within the part.
        shape: Its shape.
        sources: The source tensors that it is made of.
    """

    target: str
    shape: list[int]
    sources: list[str]


@dataclass(frozen=True)
class DroppedTensor:
    """A source tensor that the part does without.

    Attributes:
        name: The tensor.
        reason: Why it is left out.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """What becomes of every tensor; written to `conversion_report.json`.

    Attributes:
        mapped: Every parameter of the part, and what it is made of.
        dropped: Every source tensor that is left out, and why.
    """

    mapped: list[MappedParameter]
    dropped: list[DroppedTensor]


class Conversion:
    """A checked plan of which source tensors become which parameter, and the means to make each parameter.

    Args:
        source: The source tensors.
        folder: Where they lie, for errors.
        rules: One per parameter.
        drops: What is left out on purpose.
        outline: The part, unsplit, without memory: names, shapes and types of the parameters.

    Raises:
        InputError: A source tensor is unknown or missing, or its shape does not fit config.json.
    """

    def __init__(
        self,
        source: TensorSource,
        folder: Path,
        rules: Sequence[TensorRule],
        drops: Sequence[DropRule],
        outline: nn.Module,
    ) -> None:
        self._source = source
        self._folder = folder
        self._rules = {rule.target: rule for rule in rules}
        self._parameters = dict(outline.named_parameters())
        if self._rules.keys() != self._parameters.keys():  # a defect of the mapping, not of the input
            raise AssertionError(f"rules and parameters differ: {sorted(self._rules.keys() ^ self._parameters.keys())}")
        dropped = _checked_names(source.names, rules, drops, folder)
        for rule in rules:
            self._check_shapes(rule)
        mapped = [MappedParameter(rule.target, list(self.shape(rule.target)), list(rule.sources)) for rule in rules]
        self.report = ConversionReport(mapped, dropped)

    def shape(self, target: str) -> tuple[int, ...]:
        """Return the shape of a parameter."""
        return tuple(self._parameters[target].shape)

    def parameter(self, target: str) -> Tensor:
        """Make one parameter, in the type that it is stored in.

        Raises:
            InputError: A source tensor can't be read, or holds values that are not finite.
        """
        rule = self._rules[target]
        value = rule.join([self._source.tensor(name) for name in rule.sources])
        if not _finite(value):
            raise InputError(
                f"{self._folder}: {', '.join(rule.sources)} hold values that are not finite. The file is damaged; fetch "
                "it again."
            )
        stored = value.to(self._parameters[target].dtype)
        if stored.dtype != value.dtype and not _finite(stored):
            raise InputError(f"{self._folder}: {', '.join(rule.sources)} hold values beyond {stored.dtype}.")
        return stored

    def _check_shapes(self, rule: TensorRule) -> None:
        expected = self.shape(rule.target)
        outlines = [torch.empty(self._source.shape(name), device="meta") for name in rule.sources]
        shapes = ", ".join(
            f"{name} {list(outline.shape)}" for name, outline in zip(rule.sources, outlines, strict=True)
        )
        try:
            found = tuple(rule.join(outlines).shape)
        except (RuntimeError, IndexError) as error:
            raise InputError(f"{self._folder}: {shapes} do not fit config.json ({error}).") from error
        if found != expected:
            raise InputError(
                f"{self._folder}: {shapes} give a parameter of shape {list(found)}, config.json says {list(expected)}."
            )


def _finite(tensor: Tensor) -> bool:
    """Tell whether all values are finite; the extremes are found forty times as fast as a mask of all values."""
    return all(bool(torch.isfinite(extreme)) for extreme in tensor.aminmax())


def _checked_names(
    names: Sequence[str], rules: Sequence[TensorRule], drops: Sequence[DropRule], folder: Path
) -> list[DroppedTensor]:
    available = set(names)
    needed = {name for rule in rules for name in rule.sources}
    missing = sorted(needed - available)
    if missing:
        raise InputError(
            f"{folder} lacks {_some(missing)}: the weights are incomplete, or config.json describes another model."
        )
    reasons: Mapping[str, str | None] = {name: drop_reason(name, drops) for name in sorted(available - needed)}
    unknown = [name for name, reason in reasons.items() if reason is None]
    if unknown:
        raise InputError(
            f"{folder} holds tensors that the conversion has no place for: {_some(unknown)}. "
            "The model has parts that this architecture does not have."
        )
    return [DroppedTensor(name, reason) for name, reason in reasons.items() if reason is not None]


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
