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
    DEFAULTS,
    embedding_rules,
    encoder_drops,
    encoder_rules,
    encoder_settings,
    read_encoder,
)
from components.model.families.vision.family import VisionFamily

_ACTIVATION = "gelu_pytorch_tanh"
_DEFAULTS = {**DEFAULTS, "patch_size": 16, "hidden_act": _ACTIVATION, "layer_norm_eps": 1e-6}


def _read(config: HfConfig, feature_layer: int) -> VisionConfig:
    inner = config.inner("vision_config")
    own = HfConfig({**_DEFAULTS, **inner.content}, inner.source)
    own.refuse_unless("hidden_act", _ACTIVATION)
    return read_encoder(
        own,
        feature_layer,
        family="siglip",
        activation="gelu_tanh",
        class_token=False,
        pre_norm=False,
        patch_bias=True,
    )


def _rules(config: VisionConfig, prefix: str) -> list[TensorRule]:
    return [*embedding_rules(config, prefix), *encoder_rules(config, prefix)]


def _drops(config: VisionConfig, prefix: str) -> list[DropRule]:
    head = DropRule(rf"{re.escape(prefix)}head\..*", "the pooling head: features are those of the patches")
    return [*encoder_drops(config, prefix), head]


def _settings(config: VisionConfig) -> dict[str, Any]:
    own = {"hidden_act": _ACTIVATION, "vision_use_head": False}
    return {"model_type": "siglip_vision_model", **encoder_settings(config), **own}


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
