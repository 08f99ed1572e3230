"""transformers' classes of every family, and small random models of them."""

from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.support.model_samples import IMAGE, VOCABULARY

LANGUAGE_CLASSES: dict[str, tuple[Any, Any]] = {
    "mistral": (MistralConfig, MistralForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
"""A row for every family."""

VISION_CLASSES: dict[str, tuple[Any, Any]] = {
    "clip": (CLIPVisionConfig, CLIPVisionModel),
    "siglip": (SiglipVisionConfig, SiglipVisionModel),
}
"""A row for every family."""


CLIP_SETTINGS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": IMAGE.size,
    "patch_size": IMAGE.patch,
    "hidden_act": "quick_gelu",
}


def language_model(family: str, **changes: Any) -> Any:
    """Draw a language model of three layers; `rope_theta` and `rope_scaling` are given as older files have them."""
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        **({"sliding_window": None} if family == "mistral" else {}),
        **changes,
    }
    scaling = settings.pop("rope_scaling", {"rope_type": "default"})
    settings["rope_parameters"] = {**scaling, "rope_theta": settings.pop("rope_theta")}
    config_class, model_class = LANGUAGE_CLASSES[family]
    model = model_class(config_class(**settings))
    redraw(model, seed=1)
    return model.eval()


def vision_tower(family: str, **changes: Any) -> Any:
    """Draw a vision tower of three layers."""
    config_class, model_class = VISION_CLASSES[family]
    settings = dict(CLIP_SETTINGS)
    if family != "clip":
        del settings["hidden_act"]
    model = model_class(config_class(**{**settings, **changes}))
    redraw(model, seed=2)
    return model.eval()


def redraw(model: nn.Module, seed: int) -> None:
    """Give all parameters, norms and biases included, values large enough that every mistake shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + 0.1 * noise if is_norm else 0.12 * noise)
