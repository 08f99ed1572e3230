"""What the families have in common: a decoder with RMSNorm, rotary positions, grouped queries and a gated MLP.

They use the same names in `config.json` and for their tensors. What differs is a field of `LanguageConfig`: biases of
queries, keys and values, norms of queries and keys, scaled rotary positions, tied embeddings.
"""

import math
from typing import Any

from components.errors import InputError
from components.model.config import LanguageConfig, RotaryScaling
from components.model.families.hf_config import HfConfig
from components.model.families.rules import DropRule, TensorRule, attention_input, padded_rows, same, stacked

_ROTARY_BASE = 10000.0  # transformers' default


def read_decoder(
    config: HfConfig, vocabulary_multiple: int, *, window: int | None, **differences: Any
) -> LanguageConfig:
    """Read the fields that all families share.

    Args:
        config: Content of `config.json`.
        vocabulary_multiple: The vocabulary is padded to a multiple of this.
        window: Length of a sliding attention window, in tokens; None without. It makes no difference up to its own
            length, so it becomes the longest sequence.
        differences: Further fields of `LanguageConfig`: the family's name, and what sets it apart.

    Raises:
        InputError: A field is missing, or has a value that is not supported.
    """
    config.refuse_unless("hidden_act", "silu", "swish")
    config.refuse_unless("mlp_bias", False)
    heads, hidden = int(config.required("num_attention_heads")), int(config.required("hidden_size"))
    vocabulary = int(config.required("vocab_size"))
    positions = int(config.required("max_position_embeddings"))
    base, scaling = _rotary(config)
    return LanguageConfig(
        num_layers=config.required("num_hidden_layers"),
        hidden_size=hidden,
        ffn_hidden_size=config.required("intermediate_size"),
        num_attention_heads=heads,
        num_query_groups=config.get("num_key_value_heads", heads),
        kv_channels=config.get("head_dim", hidden // heads),
        vocabulary_size=vocabulary,
        padded_vocabulary_size=math.ceil(vocabulary / vocabulary_multiple) * vocabulary_multiple,
        max_position_embeddings=positions if window is None else min(positions, window),
        rotary_base=base,
        rotary_scaling=scaling,
        norm_epsilon=config.required("rms_norm_eps"),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        **differences,
    )


def decoder_settings(config: LanguageConfig) -> dict[str, Any]:
    """Return the fields of transformers' configuration that all families share."""
    rotary: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rotary_base}
    if config.rotary_scaling is not None:
        rotary |= {"rope_type": "llama3", **config.rotary_scaling.model_dump()}
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_query_groups,
        "head_dim": config.kv_channels,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": rotary,
        "tie_word_embeddings": config.tied_embeddings,
    }


def decoder_rules(config: LanguageConfig) -> list[TensorRule]:
    """Return the rules of a decoder, one per parameter."""
    sizes = (config.vocabulary_size, config.padded_vocabulary_size)
    rules = [
        padded_rows("embedding.word_embeddings.weight", "model.embed_tokens.weight", *sizes),
        same("decoder.final_layernorm.weight", "model.norm.weight"),
    ]
    if not config.tied_embeddings:
        rules.append(padded_rows("output_layer.weight", "lm_head.weight", *sizes))
    for layer in range(config.num_layers):
        rules += _layer_rules(config, f"decoder.layers.{layer}", f"model.layers.{layer}")
    return rules


def decoder_drops(config: LanguageConfig) -> list[DropRule]:
    """Return which tensors of a decoder are left out."""
    drops = [DropRule(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", "derived from rope_theta")]
    if config.tied_embeddings:
        drops.append(DropRule(r"lm_head\.weight", "tied to the embedding"))
    return drops


def _layer_rules(config: LanguageConfig, target: str, source: str) -> list[TensorRule]:
    rules = [
        same(f"{target}.input_layernorm.weight", f"{source}.input_layernorm.weight"),
        same(f"{target}.self_attention.linear_proj.weight", f"{source}.self_attn.o_proj.weight"),
        same(f"{target}.pre_mlp_layernorm.weight", f"{source}.post_attention_layernorm.weight"),
        stacked(f"{target}.mlp.linear_fc1.weight", (f"{source}.mlp.gate_proj.weight", f"{source}.mlp.up_proj.weight")),
        same(f"{target}.mlp.linear_fc2.weight", f"{source}.mlp.down_proj.weight"),
    ]
    rules += [
        attention_input(
            f"{target}.self_attention.linear_qkv.{kind}",
            tuple(f"{source}.self_attn.{name}_proj.{kind}" for name in "qkv"),
            heads=config.num_attention_heads,
            groups=config.num_query_groups,
            width=config.kv_channels,
        )
        for kind in (("weight", "bias") if config.qkv_bias else ("weight",))
    ]
    if config.qk_norm:
        rules += [
            same(f"{target}.self_attention.{name}_layernorm.weight", f"{source}.self_attn.{name}_norm.weight")
            for name in "qk"
        ]
    return rules


def _rotary(config: HfConfig) -> tuple[float, RotaryScaling | None]:
    """Return base and scaling of the rotary positions; older files call them `rope_theta` and `rope_scaling`."""
    rotary = {**config.get("rope_scaling", {}), **config.get("rope_parameters", {})}
    base = float(rotary.get("rope_theta") or config.get("rope_theta", _ROTARY_BASE))
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    if "mrope_section" in rotary or kind == "mrope":
        raise InputError(
            f"{config.source} has M-RoPE (mrope_section): it is the language model of a vision-language model. Take the "
            "text model that it was made of."
        )
    if rotary.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise InputError(
            f"{config.source} turns a part of every head only (partial_rotary_factor); that is not supported."
        )
    if kind == "default":
        return base, None
    if kind != "llama3":
        raise InputError(
            f"{config.source} has rotary scaling {kind!r}; supported are 'llama3' and none. Where it only lengthens the "
            "context (yarn, dynamic, longrope), the model's repository without it converts."
        )
    try:
        return base, RotaryScaling(**{name: rotary[name] for name in RotaryScaling.model_fields})
    except KeyError as missing:
        raise InputError(f"{config.source} has rotary scaling 'llama3' without {missing}.") from None
