"""CLIP: OpenAI's, and those of LAION and others in Hugging Face's layout."""

from pathlib import Path
from typing import Any

from torch import nn

from components.data.image_settings import PixelSettings
from components.model.config import VisionConfig
from components.model.families.hf_config import HfConfig, read_hf_config
from components.model.families.rules import DropRule, TensorRule, class_token, same_affine
from components.model.families.vision.encoder import (
    DEFAULTS,
    embedding_rules,
    encoder_drops,
    encoder_rules,
    encoder_settings,
    read_encoder,
)
from components.model.families.vision.family import VisionFamily

_DEFAULTS = {**DEFAULTS, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}


def _read(config: HfConfig, feature_layer: int) -> VisionConfig:
    inner = config.inner("vision_config")
    own = HfConfig({**_DEFAULTS, **inner.content, **_older_settings(config)}, inner.source)
    own.refuse_unless("hidden_act", "quick_gelu", "gelu")
    return read_encoder(own, feature_layer, family="clip", activation=own.required("hidden_act"))


def _older_settings(config: HfConfig) -> dict[str, Any]:
    """Return what older files of whole models have in `vision_config_dict`: it counts, with its own defaults."""
    older = config.get("vision_config_dict")
    return {**_DEFAULTS, **older} if isinstance(older, dict) else {}


def _rules(config: VisionConfig, prefix: str) -> list[TensorRule]:
    return [
        class_token(f"{prefix}embeddings.class_embedding"),
        *embedding_rules(config, prefix),
        *same_affine("ln_pre", f"{prefix}pre_layrnorm"),  # the source's own spelling
        *encoder_rules(config, prefix),
    ]


def _drops(config: VisionConfig, prefix: str) -> list[DropRule]:
    return [
        *encoder_drops(config, prefix),
        DropRule(r"(text|visual)_projection\.weight", "CLIP's contrastive projections are not used"),
    ]


def _settings(config: VisionConfig) -> dict[str, Any]:
    return {"model_type": "clip_vision_model", **encoder_settings(config), "hidden_act": config.activation}


def _reference(folder: Path) -> nn.Module:
    from transformers import CLIPConfig, CLIPVisionConfig, CLIPVisionModel

    content = read_hf_config(folder).content
    if "vision_config" not in content and "vision_config_dict" not in content:
        return CLIPVisionModel(CLIPVisionConfig.from_pretrained(folder, local_files_only=True))
    whole: Any = CLIPConfig.from_pretrained(folder, local_files_only=True)
    return CLIPVisionModel(whole.vision_config)


CLIP = VisionFamily(
    name="clip",
    model_types=("clip", "clip_vision_model"),
    architectures=("CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPModel"),
    read=_read,
    rules=_rules,
    drops=_drops,
    settings=_settings,
    pixels=PixelSettings(),
    image_processor="CLIPImageProcessor",
    layout="center_crop",
    reference=_reference,
    examples=("openai/clip-vit-large-patch14-336", "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"),
)
