"""Qwen 3, the dense models: queries and keys are normed per head, and nothing has a bias."""

from typing import Any

from components.data.chat import QWEN3_TEMPLATE, ChatFacts
from components.model.config import LanguageConfig
from components.model.families.hf_config import HfConfig
from components.model.families.language.decoder import decoder_settings, read_decoder
from components.model.families.language.family import LanguageFamily

_HEAD_WIDTH = 128  # transformers' default; it does not follow from the hidden size


def _read(config: HfConfig, vocabulary_multiple: int) -> LanguageConfig:
    config.refuse_unless("attention_bias", False)
    window = config.get("sliding_window") if config.get("use_sliding_window", False) else None
    filled = HfConfig({"head_dim": _HEAD_WIDTH, **config.content}, config.source)
    return read_decoder(filled, vocabulary_multiple, window=window, family="qwen3", qk_norm=True)


def _settings(config: LanguageConfig) -> dict[str, Any]:
    return {**decoder_settings(config), "attention_bias": False, "use_sliding_window": False}


QWEN3 = LanguageFamily(
    model_type="qwen3",
    architectures=("Qwen3ForCausalLM",),
    read=_read,
    settings=_settings,
    examples=("Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B", "Qwen/Qwen3-8B"),
    chat=ChatFacts(
        image_tokens=("<|image_pad|>",),
        end_tokens=("<|im_end|>", "<|endoftext|>"),
        padding_tokens=("<|endoftext|>",),
        variables={"enable_thinking": False},
        templates=(QWEN3_TEMPLATE,),
    ),
)
