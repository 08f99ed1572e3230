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

from components.model.config import LanguageConfig, VisionConfig


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


def language_rules(config: LanguageConfig) -> list[TensorRule]:
    """Return the rules of a Mistral or Llama model, one per parameter."""
    rules = [
        _padded_rows("embedding.word_embeddings.weight", "model.embed_tokens.weight", config),
        same("decoder.final_layernorm.weight", "model.norm.weight"),
    ]
    if not config.tied_embeddings:
        rules.append(_padded_rows("output_layer.weight", "lm_head.weight", config))
    for layer in range(config.num_layers):
        target, source = f"decoder.layers.{layer}", f"model.layers.{layer}"
        projections = tuple(f"{source}.self_attn.{name}_proj.weight" for name in "qkv")
        rules += [
            same(f"{target}.input_layernorm.weight", f"{source}.input_layernorm.weight"),
            attention_input(
                f"{target}.self_attention.linear_qkv.weight",
                projections,
                heads=config.num_attention_heads,
                groups=config.num_query_groups,
                width=config.kv_channels,
            ),
            same(f"{target}.self_attention.linear_proj.weight", f"{source}.self_attn.o_proj.weight"),
            same(f"{target}.pre_mlp_layernorm.weight", f"{source}.post_attention_layernorm.weight"),
            _stacked(
                f"{target}.mlp.linear_fc1.weight",
                (f"{source}.mlp.gate_proj.weight", f"{source}.mlp.up_proj.weight"),
            ),
            same(f"{target}.mlp.linear_fc2.weight", f"{source}.mlp.down_proj.weight"),
        ]
    return rules


def language_drops(config: LanguageConfig) -> list[DropRule]:
    """Return which tensors of a Mistral or Llama model are left out."""
    drops = [DropRule(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", "derived from rope_theta")]
    if config.tied_embeddings:
        drops.append(DropRule(r"lm_head\.weight", "tied to the embedding"))
    return drops


def vision_rules(config: VisionConfig, prefix: str) -> list[TensorRule]:
    """Return the rules of a CLIP vision tower, one per parameter.

    Args:
        config: The tower; layers above its feature layer have no rule.
        prefix: What the source names begin with: "vision_model." or nothing (see `vision_prefix`).
    """
    rules = [
        class_token(f"{prefix}embeddings.class_embedding"),
        same("conv1.weight", f"{prefix}embeddings.patch_embedding.weight"),
        same("position_embeddings.weight", f"{prefix}embeddings.position_embedding.weight"),
        *same_affine("ln_pre", f"{prefix}pre_layrnorm"),  # the source's own spelling
    ]
    for layer in range(config.built_layers):
        target, source = f"decoder.layers.{layer}", f"{prefix}encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            rules.append(
                attention_input(
                    f"{target}.self_attention.linear_qkv.{kind}",
                    tuple(f"{source}.self_attn.{name}_proj.{kind}" for name in "qkv"),
                    heads=config.num_attention_heads,
                    groups=config.num_attention_heads,
                    width=config.hidden_size // config.num_attention_heads,
                )
            )
        rules += [
            *same_affine(f"{target}.input_layernorm", f"{source}.layer_norm1"),
            *same_affine(f"{target}.self_attention.linear_proj", f"{source}.self_attn.out_proj"),
            *same_affine(f"{target}.pre_mlp_layernorm", f"{source}.layer_norm2"),
            *same_affine(f"{target}.mlp.linear_fc1", f"{source}.mlp.fc1"),
            *same_affine(f"{target}.mlp.linear_fc2", f"{source}.mlp.fc2"),
        ]
    return rules


def vision_drops(config: VisionConfig, prefix: str) -> list[DropRule]:
    """Return which tensors of a CLIP model are left out."""
    own = re.escape(prefix)
    above = "|".join(str(layer) for layer in range(config.built_layers, config.num_layers))
    drops = [
        DropRule(rf"{own}post_layernorm\..*", "features are taken before the post-layernorm"),
        DropRule(rf"{own}embeddings\.position_ids", "a constant"),
        DropRule(r"text_model\..*", "CLIP's text tower is not used"),
        DropRule(r"(text|visual)_projection\.weight", "CLIP's contrastive projections are not used"),
        DropRule(r"logit_scale", "CLIP's contrastive temperature is not used"),
    ]
    if above:
        drops.append(DropRule(rf"{own}encoder\.layers\.({above})\..*", "above the feature layer"))
    return drops


def vision_prefix(names: Iterable[str]) -> str:
    """Return what a CLIP checkpoint's vision tensors begin with: newer files of the tower alone have no prefix."""
    return "vision_model." if any(name.startswith("vision_model.") for name in names) else ""


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


def _stacked(target: str, sources: tuple[str, ...]) -> TensorRule:
    """Rows of the first source, then those of the next: megatron's gated MLP is [gate; up]."""
    count = len(sources)
    return TensorRule(
        target, sources, lambda tensors: torch.cat(list(tensors)), lambda parameter: list(parameter.chunk(count))
    )


def _padded_rows(target: str, source: str, config: LanguageConfig) -> TensorRule:
    """Vocabulary rows, followed by zero rows up to the padded size."""
    rows, padding = config.vocabulary_size, config.padded_vocabulary_size - config.vocabulary_size

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
