"""Which tensors an exported model has: every parameter split into Hugging Face's tensors, and what is added to them.

Names are those of Llava checkpoints as they have always been shared (`language_model.model...`,
`vision_tower.vision_model...`); transformers 5 renames them while loading. It does not rename for modelling code of a
folder, so such a folder has the names of transformers 5's modules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.export.shards import TensorGroup
from components.model.config import ModelConfig
from components.model.families.language.registry import language_family
from components.model.families.rules import TensorRule
from components.model.families.vision.registry import vision_family
from components.model.streaming import Read

_TOWER = "vision_tower.vision_model."
_LANGUAGE = "language_model."
_PROJECTOR = "multi_modal_projector."
_NO_ROW = "the image token has no row of its own: it is replaced by features, and generation_config.json suppresses it"
_IDENTITY = "the tower ends before its post-layernorm, which Llava does not use; an identity fills its place"


@dataclass(frozen=True)
class Constant:
    """A tensor, or rows of one, that no parameter holds.

    Attributes:
        name: Name of the tensor.
        rows: First and last row, or None for the whole tensor.
        value: What it is filled with.
        reason: Why it is there.
    """

    name: str
    rows: tuple[int, int] | None
    value: float
    reason: str


@dataclass(frozen=True)
class TensorPlan:
    """All tensors of an export.

    Attributes:
        groups: What is written, in order.
        sources: Tensor name to the parameter that it comes from; "" for constants.
        constants: What was added.
        module_names: Name of a parameter of transformers 5's model to the tensor's name.
    """

    groups: list[TensorGroup]
    sources: dict[str, str]
    constants: list[Constant]
    module_names: dict[str, str]


def exported_vocabulary(config: ModelConfig) -> int:
    """Return the number of vocabulary rows: the true vocabulary, and the image token where it lies beyond."""
    return max(config.language.vocabulary_size, config.image_token_id + 1)


def plan_tensors(config: ModelConfig, outline: nn.Module, read: Read, *, module_names: bool) -> TensorPlan:
    """Decide what is written, before anything is read.

    Args:
        config: The model.
        outline: Its parameters' names and shapes.
        read: Name of a parameter to its value.
        module_names: Name tensors as transformers 5 names its modules' parameters.
    """
    renamed = module_name if module_names else (lambda name: name)
    parameters = dict(outline.named_parameters())
    groups, sources, constants = [], {}, []
    rows, added = config.language.vocabulary_size, exported_vocabulary(config) - config.language.vocabulary_size
    for rule in _rules(config):
        split = rule.split
        if added and rule.target.endswith(("word_embeddings.weight", "output_layer.weight")):
            split = _with_rows(rule.split, added)
            constants.append(Constant(renamed(rule.sources[0]), (rows, rows + added - 1), 0.0, _NO_ROW))
        shapes = tuple(tuple(tensor.shape) for tensor in split(parameters[rule.target].detach()))
        names = tuple(renamed(name) for name in rule.sources)
        groups.append(TensorGroup(names, shapes, _made(split, read, rule.target)))
        sources.update(dict.fromkeys(names, rule.target))
    unused = sorted(parameters.keys() - {rule.target for rule in _rules(config)})
    if unused:  # a defect of the mapping
        raise AssertionError(f"these parameters would be lost: {unused}")
    for kind, value in (("weight", 1.0), ("bias", 0.0)):
        name = renamed(f"{_TOWER}post_layernorm.{kind}")
        groups.append(TensorGroup((name,), ((config.vision.hidden_size,),), _filled(config.vision.hidden_size, value)))
        sources[name] = ""
        constants.append(Constant(name, None, value, _IDENTITY))
    own_names = {name if module_names else module_name(name): name for name in sources}
    return TensorPlan(groups, sources, constants, own_names)


def module_name(name: str) -> str:
    """Return the name that a tensor of a shared Llava checkpoint has as a parameter of transformers 5's model."""
    if name == f"{_LANGUAGE}lm_head.weight":
        return "lm_head.weight"
    if name.startswith(_TOWER):
        return f"model.vision_tower.{name.removeprefix(_TOWER)}"
    if name.startswith(_LANGUAGE):
        return f"model.language_model.{name.removeprefix(f'{_LANGUAGE}model.')}"
    return f"model.{name}"


def _rules(config: ModelConfig) -> list[TensorRule]:
    language, vision = language_family(config.language.family), vision_family(config.vision.family)
    rules = [_prefixed(rule, "language_model.", _LANGUAGE) for rule in language.rules(config.language)]
    rules += [_prefixed(rule, "vision_model.", "") for rule in vision.rules(config.vision, _TOWER)]
    for number in range(1, config.projector.depth + 1):
        for kind in ("weight", "bias") if config.projector.bias else ("weight",):
            rules.append(
                TensorRule(
                    f"vision_projection.encoder.linear_fc{number}.{kind}",
                    (f"{_PROJECTOR}linear_{number}.{kind}",),
                    lambda sources: sources[0],
                    lambda parameter: [parameter],
                )
            )
    return rules


def _prefixed(rule: TensorRule, target: str, source: str) -> TensorRule:
    sources = tuple(f"{source}{name}" for name in rule.sources)
    return TensorRule(f"{target}{rule.target}", sources, rule.join, rule.split)


def _with_rows(split: Callable[[Tensor], list[Tensor]], count: int) -> Callable[[Tensor], list[Tensor]]:
    def with_rows(parameter: Tensor) -> list[Tensor]:
        (rows,) = split(parameter)
        return [torch.cat([rows, rows.new_zeros(count, rows.shape[1])])]

    return with_rows


def _made(split: Callable[[Tensor], list[Tensor]], read: Read, parameter: str) -> Callable[[], list[Tensor]]:
    return lambda: split(read(parameter))


def _filled(size: int, value: float) -> Callable[[], list[Tensor]]:
    return lambda: [torch.full((size,), value)]


def describe(plan: TensorPlan) -> Sequence[dict[str, object]]:
    """Return the constants as `export_report.json` holds them."""
    return [{**vars(constant), "rows": list(constant.rows) if constant.rows else None} for constant in plan.constants]
