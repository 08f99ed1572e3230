"""Shapes of models: a small one of three layers a side, and the recipe's; others are these with changes."""

from typing import Any, TypeVar

from pydantic import BaseModel

from components.data.image_settings import ImageSettings
from components.model.config import LanguageConfig, ModelConfig, ProjectorConfig, VisionConfig
from tests.support.model_samples import IMAGE, IMAGE_TOKEN

Config = TypeVar("Config", bound=BaseModel)

CONFIG = ModelConfig(
    language=LanguageConfig(
        num_layers=3,
        hidden_size=48,
        ffn_hidden_size=80,
        num_attention_heads=4,
        num_query_groups=2,
        kv_channels=16,
        vocabulary_size=330,
        padded_vocabulary_size=336,
        max_position_embeddings=128,
        rotary_base=1e4,
        norm_epsilon=1e-5,
    ),
    vision=VisionConfig(
        num_layers=3,
        hidden_size=32,
        ffn_hidden_size=64,
        num_attention_heads=4,
        image_size=IMAGE.size,
        patch_size=IMAGE.patch,
        norm_epsilon=1e-5,
        feature_layer=-2,
    ),
    projector=ProjectorConfig(ffn_hidden_size=40),
    image=IMAGE,
    image_token_id=IMAGE_TOKEN,
)

MISTRAL_7B = LanguageConfig(
    num_layers=32,
    hidden_size=4096,
    ffn_hidden_size=14336,
    num_attention_heads=32,
    num_query_groups=8,
    kv_channels=128,
    vocabulary_size=32768,
    padded_vocabulary_size=32768,
    max_position_embeddings=4096,
    rotary_base=1e6,
    norm_epsilon=1e-5,
)

CLIP_L_336 = VisionConfig(
    num_layers=24,
    hidden_size=1024,
    ffn_hidden_size=4096,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
    norm_epsilon=1e-5,
)

IMAGE_336 = ImageSettings(size=336, patch=14)

SCALED_DOWN_LANGUAGE = [
    "weights.language.hidden_size=512",
    "weights.language.intermediate_size=1792",
    "weights.language.num_hidden_layers=8",
    "weights.language.num_attention_heads=8",
    "weights.language.num_key_value_heads=2",
    "weights.language.head_dim=64",
]
"""Settings of the laptop preset that give a language model of Mistral's proportions, an eighth as wide."""


def changed(config: Config, **changes: Any) -> Config:
    """A checked copy with other values."""
    return type(config).model_validate({**config.model_dump(), **changes})
