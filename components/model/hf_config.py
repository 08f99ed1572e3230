"""Hugging Face `config.json` of the two parts, read into this project's architecture, or refused by name."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.model.config import LanguageConfig, VisionConfig

LANGUAGE_ARCHITECTURES = (
    "MistralForCausalLM",
    "LlamaForCausalLM",
)
VISION_ARCHITECTURES = ("CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPModel")

_CONFIG_NAME = "config.json"
_CLIP_DEFAULTS = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_channels": 3}


def read_hf_config(folder: Path) -> dict[str, Any]:
    """Read `config.json` of a folder in Hugging Face layout.

    Raises:
        InputError: The file is missing or not a JSON object.
    """
    path = folder / _CONFIG_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}). Expected a model in Hugging Face layout."
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, it holds a {type(content).__name__}.")
    return content


def architecture_of(config: Mapping[str, Any]) -> str:
    """Return the name of the architecture that a `config.json` declares, "unknown" if it declares none."""
    names = config.get("architectures") or [config.get("model_type") or "unknown"]
    return str(names[0])


def language_config(config: Mapping[str, Any], source: str, vocabulary_multiple: int) -> LanguageConfig:
    """Read a Mistral or Llama configuration.

    A sliding attention window makes no difference up to its own length, so it becomes the longest sequence.

    Args:
        config: Content of `config.json`.
        source: Where it comes from, for errors.
        vocabulary_multiple: The vocabulary is padded to a multiple of this.

    Raises:
        InputError: The architecture or one of its variants is not supported.
    """
    _check_architecture(config, LANGUAGE_ARCHITECTURES, "language model", source)
    _refuse(config, source, "hidden_act", ("silu", "swish"))
    for bias in ("attention_bias", "mlp_bias"):
        _refuse(config, source, bias, (False,))
    rotary = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    if kind != "default":
        raise InputError(f"{source} has rotary scaling {kind!r}; only unscaled rotary embeddings are supported.")
    heads, hidden = int(_required(config, source, "num_attention_heads")), int(_required(config, source, "hidden_size"))
    vocabulary = int(_required(config, source, "vocab_size"))
    positions = int(_required(config, source, "max_position_embeddings"))
    window = config.get("sliding_window")
    return LanguageConfig(
        num_layers=_required(config, source, "num_hidden_layers"),
        hidden_size=hidden,
        ffn_hidden_size=_required(config, source, "intermediate_size"),
        num_attention_heads=heads,
        num_query_groups=config.get("num_key_value_heads") or heads,
        kv_channels=config.get("head_dim") or hidden // heads,
        vocabulary_size=vocabulary,
        padded_vocabulary_size=math.ceil(vocabulary / vocabulary_multiple) * vocabulary_multiple,
        max_position_embeddings=min(positions, int(window)) if window else positions,
        rotary_base=rotary.get("rope_theta") or config.get("rope_theta") or 10000.0,
        norm_epsilon=_required(config, source, "rms_norm_eps"),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


def vision_config(config: Mapping[str, Any], source: str, feature_layer: int) -> VisionConfig:
    """Read a CLIP vision configuration, alone or within a whole CLIP model's.

    Args:
        config: Content of `config.json`.
        source: Where it comes from, for errors.
        feature_layer: Which layer's output is the feature; -1 the last.

    Raises:
        InputError: The architecture or one of its variants is not supported.
    """
    _check_architecture(config, VISION_ARCHITECTURES, "vision tower", source)
    own = {**_CLIP_DEFAULTS, **(config.get("vision_config") or config)}
    _refuse(own, source, "hidden_act", ("quick_gelu", "gelu"))
    _refuse(own, source, "num_channels", (3,))
    layers = int(_required(own, source, "num_hidden_layers"))
    if layers + 1 + feature_layer < 1:
        raise InputError(f"{source} has {layers} layers: there is no layer {feature_layer}. Correct feature_layer.")
    return VisionConfig(
        num_layers=layers,
        hidden_size=_required(own, source, "hidden_size"),
        ffn_hidden_size=_required(own, source, "intermediate_size"),
        num_attention_heads=_required(own, source, "num_attention_heads"),
        image_size=_required(own, source, "image_size"),
        patch_size=_required(own, source, "patch_size"),
        norm_epsilon=own["layer_norm_eps"],
        activation=own["hidden_act"],
        feature_layer=feature_layer,
    )


def _check_architecture(config: Mapping[str, Any], supported: tuple[str, ...], what: str, source: str) -> None:
    name = architecture_of(config)
    if name not in supported:
        raise InputError(f"{source} is a {name}. As {what}, these are supported: {', '.join(supported)}.")


def _refuse(config: Mapping[str, Any], source: str, key: str, supported: tuple[Any, ...]) -> None:
    value = config.get(key, supported[0])
    if value not in supported:
        raise InputError(f"{source} has {key} = {value!r}; supported is {' or '.join(map(repr, supported))}.")


def _required(config: Mapping[str, Any], source: str, key: str) -> Any:
    if config.get(key) is None:
        raise InputError(f"{source} has no {key}.")
    return config[key]
