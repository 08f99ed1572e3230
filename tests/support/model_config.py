"""A small model of three layers a side, for what is counted rather than computed."""

from components.model.config import LanguageConfig, ModelConfig, ProjectorConfig, VisionConfig
from tests.support.model_samples import IMAGE, IMAGE_TOKEN

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
