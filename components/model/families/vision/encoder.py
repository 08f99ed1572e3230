"""What the families have in common: a transformer of layers with LayerNorm and biases, under the same names."""

import re
from collections.abc import Iterable
from typing import Any

from components.errors import InputError
from components.model.config import VisionConfig
from components.model.families.hf_config import HfConfig
from components.model.families.rules import DropRule, TensorRule, attention_input, same, same_affine

DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
}
"""What transformers fills in for every family: files are written without what equals its defaults."""


def read_encoder(config: HfConfig, feature_layer: int, **differences: Any) -> VisionConfig:
    """Read the fields that all families share.

    Args:
        config: The tower's own settings, defaults filled in.
        feature_layer: Which layer's output is the feature; -1 the last.
        differences: Further fields of `VisionConfig`: the family's name, and what sets it apart.

    Raises:
        InputError: A field is missing or has a value that is not supported, or there is no such layer.
    """
    config.refuse_unless("num_channels", 3)
    layers = int(config.required("num_hidden_layers"))
    if layers + 1 + feature_layer < 1:
        raise InputError(
            f"{config.source} has {layers} layers: there is no layer {feature_layer}. Correct feature_layer."
        )
    return VisionConfig(
        num_layers=layers,
        hidden_size=config.required("hidden_size"),
        ffn_hidden_size=config.required("intermediate_size"),
        num_attention_heads=config.required("num_attention_heads"),
        image_size=_square_side(config, "image_size"),
        patch_size=_square_side(config, "patch_size"),
        norm_epsilon=config.required("layer_norm_eps"),
        feature_layer=feature_layer,
        **differences,
    )


def encoder_settings(config: VisionConfig) -> dict[str, Any]:
    """Return the fields of transformers' vision configuration that all families share."""
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        # Layers above the feature layer were never converted: the last one that exists is the feature layer.
        "num_hidden_layers": config.built_layers,
        "num_attention_heads": config.num_attention_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "layer_norm_eps": config.norm_epsilon,
    }


def encoder_rules(config: VisionConfig, prefix: str) -> list[TensorRule]:
    """Return the rules of the layers up to the feature layer, one per parameter."""
    rules = []
    for layer in range(config.built_layers):
        target, source = f"decoder.layers.{layer}", f"{prefix}encoder.layers.{layer}"
        rules += [
            attention_input(
                f"{target}.self_attention.linear_qkv.{kind}",
                tuple(f"{source}.self_attn.{name}_proj.{kind}" for name in "qkv"),
                heads=config.num_attention_heads,
                groups=config.num_attention_heads,
                width=config.hidden_size // config.num_attention_heads,
            )
            for kind in ("weight", "bias")
        ]
        rules += [
            *same_affine(f"{target}.input_layernorm", f"{source}.layer_norm1"),
            *same_affine(f"{target}.self_attention.linear_proj", f"{source}.self_attn.out_proj"),
            *same_affine(f"{target}.pre_mlp_layernorm", f"{source}.layer_norm2"),
            *same_affine(f"{target}.mlp.linear_fc1", f"{source}.mlp.fc1"),
            *same_affine(f"{target}.mlp.linear_fc2", f"{source}.mlp.fc2"),
        ]
    return rules


def embedding_rules(config: VisionConfig, prefix: str) -> list[TensorRule]:
    """Return the rules of the patch and position embeddings."""
    patches = ("conv1", f"{prefix}embeddings.patch_embedding")
    return [
        *(same_affine(*patches) if config.patch_bias else [same(f"{patches[0]}.weight", f"{patches[1]}.weight")]),
        same("position_embeddings.weight", f"{prefix}embeddings.position_embedding.weight"),
    ]


def encoder_drops(config: VisionConfig, prefix: str) -> list[DropRule]:
    """Return which tensors of a tower, and of the text model beside it, are left out."""
    own = re.escape(prefix)
    above = "|".join(str(layer) for layer in range(config.built_layers, config.num_layers))
    drops = [
        DropRule(rf"{own}post_layernorm\..*", "features are taken before the post-layernorm"),
        DropRule(rf"{own}embeddings\.position_ids", "a constant"),
        DropRule(r"text_model\..*", "the text tower is not used"),
        DropRule(r"logit_scale|logit_bias", "the contrastive temperature is not used"),
    ]
    if above:
        drops.append(DropRule(rf"{own}encoder\.layers\.({above})\..*", "above the feature layer"))
    return drops


def vision_prefix(names: Iterable[str]) -> str:
    """Return what the tower's tensors begin with: newer files of the tower alone have no prefix."""
    return "vision_model." if any(name.startswith("vision_model.") for name in names) else ""


def _square_side(config: HfConfig, key: str) -> int:
    """Return a side in pixels that is written as one number, or as two that are equal.

    Raises:
        InputError: It is missing, or the two differ.
    """
    value = config.required(key)
    sides = set(value) if isinstance(value, list) else {value}
    if len(sides) != 1:
        raise InputError(f"{config.source} has {key} = {value!r}; only squares are supported.")
    return int(sides.pop())
