"""SigLIP, and SigLIP 2 of fixed resolution, which is published as the same architecture.

There is no class token, positions are learnt, and the pooling head is left out: features are the patches'. Pictures are
resized by the bicubic filter (SigLIP) or the bilinear one (SigLIP 2, by its `preprocessor_config.json`).
"""

import re
from pathlib import Path
from typing import Any

from torch import nn

from components.data.image_settings import PixelSettings
from components.model.config import VisionConfig
from components.model.families.hf_config import HfConfig
from components.model.families.rules import DropRule, TensorRule
from components.model.families.vision.encoder import (
    checked_feature_layer,
    embedding_rules,
    encoder_drops,
    encoder_rules,
    square_side,
)
from components.model.families.vision.family import VisionFamily

_ACTIVATION = "gelu_pytorch_tanh"
# What transformers fills in: files are written without what equals its defaults.
_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": _ACTIVATION,
    "layer_norm_eps": 1e-6,
}


def _read(config: HfConfig, feature_layer: int) -> VisionConfig:
    inner = config.inner("vision_config")
    own = HfConfig({**_DEFAULTS, **inner.content}, inner.source)
    own.refuse_unless("hidden_act", _ACTIVATION)
    own.refuse_unless("num_channels", 3)
    return VisionConfig(
        family="siglip",
        num_layers=checked_feature_layer(own, feature_layer),
        hidden_size=own.required("hidden_size"),
        ffn_hidden_size=own.required("intermediate_size"),
        num_attention_heads=own.required("num_attention_heads"),
        image_size=square_side(own, "image_size"),
        patch_size=square_side(own, "patch_size"),
        norm_epsilon=own.required("layer_norm_eps"),
        activation="gelu_tanh",
        class_token=False,
        pre_norm=False,
        patch_bias=True,
        feature_layer=feature_layer,
    )


def _rules(config: VisionConfig, prefix: str) -> list[TensorRule]:
    return [*embedding_rules(config, prefix), *encoder_rules(config, prefix)]


def _drops(config: VisionConfig, prefix: str) -> list[DropRule]:
    head = DropRule(rf"{re.escape(prefix)}head\..*", "the pooling head: features are those of the patches")
    return [*encoder_drops(config, prefix), head]


def _settings(config: VisionConfig) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        # Layers above the feature layer were never converted: the last one that exists is the feature layer.
        "num_hidden_layers": config.built_layers,
        "num_attention_heads": config.num_attention_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "layer_norm_eps": config.norm_epsilon,
        "hidden_act": _ACTIVATION,
        "vision_use_head": False,
    }


def _reference(folder: Path) -> nn.Module:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(SiglipVisionConfig.from_pretrained(folder, local_files_only=True, vision_use_head=False))


SIGLIP = VisionFamily(
    name="siglip",
    model_types=("siglip", "siglip_vision_model"),
    architectures=("SiglipVisionModel", "SiglipModel"),
    read=_read,
    rules=_rules,
    drops=_drops,
    settings=_settings,
    pixels=PixelSettings(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    image_processor="SiglipImageProcessor",
    layout="squash",
    reference=_reference,
    examples=("google/siglip-so400m-patch14-384", "google/siglip2-so400m-patch14-384"),
)
