"""OpenAI's own CLIP layout: its architecture read from the tensors' shapes, and what makes up which parameter."""

import math
from collections.abc import Callable, Iterable

import torch

from components.errors import InputError
from components.model.config import VisionConfig
from components.model.families.rules import DropRule, TensorRule, attention_input, class_token, same, same_affine

_HEAD_WIDTH = 64  # of all of OpenAI's vision transformers
_NORM_EPSILON = 1e-5


def openai_prefix(names: Iterable[str]) -> str:
    """Return what the vision tower's tensors begin with: "visual." in a whole CLIP, nothing in a tower alone."""
    return "visual." if any(name.startswith("visual.") for name in names) else ""


def openai_vision_config(
    names: Iterable[str], shape: Callable[[str], tuple[int, ...]], source: str, feature_layer: int
) -> VisionConfig:
    """Read the architecture of OpenAI's vision transformer from its tensors; the files have no configuration.

    Source: `build_model` of OpenAI's CLIP: heads are 64 wide, the activation is QuickGELU.

    Args:
        names: Names of all tensors.
        shape: Name to shape.
        source: Where they come from, for errors.
        feature_layer: Which layer's output is the feature; -1 the last.

    Raises:
        InputError: It is no vision transformer of OpenAI's (their ResNets are not supported), or has no such layer.
    """
    known = set(names)
    prefix = openai_prefix(known)
    first, positions = f"{prefix}conv1.weight", f"{prefix}positional_embedding"
    block = f"{prefix}transformer.resblocks."
    if not {first, positions, f"{block}0.mlp.c_fc.weight"} <= known:
        kind = "one of its ResNets" if f"{prefix}attnpool.positional_embedding" in known else "another model"
        raise InputError(
            f"{source} is not one of OpenAI's CLIP vision transformers ({kind}): supported are the ViT models."
        )
    layers = len({name.removeprefix(block).split(".")[0] for name in known if name.startswith(block)})
    hidden, _, patch, _ = shape(first)
    if hidden % _HEAD_WIDTH:
        raise InputError(
            f"{source} has width {hidden}; OpenAI's CLIP has heads of {_HEAD_WIDTH}, so that it must be a multiple."
        )
    if layers + 1 + feature_layer < 1:
        raise InputError(f"{source} has {layers} layers: there is no layer {feature_layer}. Correct feature_layer.")
    return VisionConfig(
        family="clip",
        num_layers=layers,
        hidden_size=hidden,
        ffn_hidden_size=shape(f"{block}0.mlp.c_fc.weight")[0],
        num_attention_heads=hidden // _HEAD_WIDTH,
        image_size=patch * math.isqrt(shape(positions)[0] - 1),
        patch_size=patch,
        norm_epsilon=_NORM_EPSILON,
        activation="quick_gelu",
        feature_layer=feature_layer,
    )


def openai_vision_rules(config: VisionConfig, prefix: str) -> list[TensorRule]:
    """Return the rules of OpenAI's vision transformer, one per parameter.

    Args:
        config: The tower; layers above its feature layer have no rule.
        prefix: What the source names begin with (see `openai_prefix`).
    """
    rules = [
        class_token(f"{prefix}class_embedding"),
        same("conv1.weight", f"{prefix}conv1.weight"),
        same("position_embeddings.weight", f"{prefix}positional_embedding"),
        *same_affine("ln_pre", f"{prefix}ln_pre"),
    ]
    for layer in range(config.built_layers):
        target, source = f"decoder.layers.{layer}", f"{prefix}transformer.resblocks.{layer}"
        rules += [
            *(
                _fused_attention_input(
                    f"{target}.self_attention.linear_qkv.{kind}", f"{source}.attn.in_proj_{kind}", config
                )
                for kind in ("weight", "bias")
            ),
            *same_affine(f"{target}.input_layernorm", f"{source}.ln_1"),
            *same_affine(f"{target}.self_attention.linear_proj", f"{source}.attn.out_proj"),
            *same_affine(f"{target}.pre_mlp_layernorm", f"{source}.ln_2"),
            *same_affine(f"{target}.mlp.linear_fc1", f"{source}.mlp.c_fc"),
            *same_affine(f"{target}.mlp.linear_fc2", f"{source}.mlp.c_proj"),
        ]
    return rules


def openai_vision_drops(config: VisionConfig, prefix: str) -> list[DropRule]:
    """Return which tensors of OpenAI's CLIP are left out."""
    visual = prefix.replace(".", r"\.")
    above = "|".join(str(layer) for layer in range(config.built_layers, config.num_layers))
    drops = [
        DropRule(rf"{visual}ln_post\..*", "features are taken before the post-layernorm"),
        DropRule(rf"{visual}proj", "CLIP's contrastive projections are not used"),
    ]
    if above:
        drops.append(DropRule(rf"{visual}transformer\.resblocks\.({above})\..*", "above the feature layer"))
    if prefix:
        drops += [
            DropRule(
                r"(transformer|token_embedding|ln_final)\..*|positional_embedding|text_projection",
                "CLIP's text tower is not used",
            ),
            DropRule(r"logit_scale", "CLIP's contrastive temperature is not used"),
            DropRule(r"input_resolution|context_length|vocab_size", "a constant"),
        ]
    return drops


def _fused_attention_input(target: str, source: str, config: VisionConfig) -> TensorRule:
    """Rows of all queries, all keys, all values, interleaved per head."""
    heads = config.num_attention_heads
    apart = attention_input(target, (), heads=heads, groups=heads, width=config.hidden_size // heads)
    return TensorRule(
        target,
        (source,),
        lambda tensors: apart.join(tensors[0].chunk(3)),
        lambda parameter: [torch.cat(apart.split(parameter))],
    )
