"""The conversion itself: source tensors into the parameters of a megatron-core part, each accounted for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.errors import InputError
from components.model.hf_mapping import DropRule, TensorRule, drop_reason
from components.weight_conversion.safetensors_folder import SafetensorsFolder


@dataclass(frozen=True)
class ConversionReport:
    """What became of every tensor; written to `conversion_report.json`.

    Attributes:
        mapped: Parameter name, the source tensors that it is made of, and its shape.
        dropped: Source tensor and why it is left out.
    """

    mapped: list[dict[str, Any]]
    dropped: list[dict[str, str]]


def plan(
    names: Sequence[str], rules: Sequence[TensorRule], drops: Sequence[DropRule], targets: Sequence[str], source: str
) -> list[dict[str, str]]:
    """Check, before anything is read, that every source tensor has a use or a reason, and every parameter a source.

    Args:
        names: Source tensors.
        rules: One per parameter.
        drops: What is left out on purpose.
        targets: Parameters of the model.
        source: Where the tensors come from, for errors.

    Returns:
        The dropped tensors and why.

    Raises:
        InputError: A source tensor is unknown or missing.
    """
    available = set(names)
    needed = {name for rule in rules for name in rule.sources}
    missing = sorted(needed - available)
    if missing:
        raise InputError(
            f"{source} lacks {_some(missing)}: the weights are incomplete, or config.json describes another model."
        )
    reasons = {name: drop_reason(name, drops) for name in sorted(available - needed)}
    unknown = [name for name, reason in reasons.items() if reason is None]
    if unknown:
        raise InputError(
            f"{source} holds tensors that the conversion has no place for: {_some(unknown)}. "
            "The model has parts that this architecture does not have."
        )
    ruled = sorted(rule.target for rule in rules)
    if ruled != sorted(targets):  # a defect of the mapping, not of the input
        raise AssertionError(f"rules and parameters differ: {sorted(set(ruled) ^ set(targets))}")
    return [{"name": name, "reason": reason} for name, reason in reasons.items() if reason is not None]


def fill(
    module: nn.Module,
    source: SafetensorsFolder,
    rules: Sequence[TensorRule],
    drops: Sequence[DropRule],
    progress: Callable[[int], None],
) -> ConversionReport:
    """Fill all parameters of a part, reading one parameter's source tensors at a time.

    Args:
        module: The part, unsplit, with plain layers.
        source: The source tensors.
        rules: One per parameter.
        drops: What is left out on purpose.
        progress: Called with the number of finished parameters.

    Raises:
        InputError: A tensor is missing, unknown, damaged, of the wrong shape, or holds values that are not finite.
    """
    parameters = dict(module.named_parameters())
    dropped = plan(source.names, rules, drops, list(parameters), str(source.folder))
    mapped = []
    for done, rule in enumerate(rules, start=1):
        parameter = parameters[rule.target]
        value = _joined(rule, [source.tensor(name) for name in rule.sources], parameter, source)
        with torch.no_grad():
            parameter.copy_(value)
        mapped.append({"target": rule.target, "sources": list(rule.sources), "shape": list(parameter.shape)})
        progress(done)
    return ConversionReport(mapped, dropped)


def _joined(rule: TensorRule, tensors: list[Tensor], parameter: Tensor, source: SafetensorsFolder) -> Tensor:
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in zip(rule.sources, tensors, strict=True))
    try:
        value = rule.join(tensors)
    except (RuntimeError, IndexError) as error:
        raise InputError(f"{source.folder}: {shapes} do not fit config.json ({error}).") from error
    if value.shape != parameter.shape:
        raise InputError(
            f"{source.folder}: {shapes} give a parameter of shape {list(value.shape)}, config.json says "
            f"{list(parameter.shape)}."
        )
    if not bool(torch.isfinite(value).all()):
        raise InputError(
            f"{source.folder}: {shapes} hold values that are not finite. The file is damaged; fetch it again."
        )
    return value


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
