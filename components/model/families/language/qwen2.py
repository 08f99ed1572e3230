"""Qwen 2 and 2.5: queries, keys and values have biases; the small ones tie the output layer to the embedding."""

from typing import Any

from components.data.chat import CHATML_TEMPLATE, ChatFacts
from components.model.config import LanguageConfig
from components.model.families.hf_config import HfConfig
from components.model.families.language.decoder import decoder_settings, read_decoder
from components.model.families.language.family import LanguageFamily


def _read(config: HfConfig, vocabulary_multiple: int) -> LanguageConfig:
    # Published files name a window that they switch off.
    window = config.get("sliding_window") if config.get("use_sliding_window", False) else None
    return read_decoder(config, vocabulary_multiple, window=window, family="qwen2", qkv_bias=True)


def _settings(config: LanguageConfig) -> dict[str, Any]:
    return {**decoder_settings(config), "use_sliding_window": False}


QWEN2 = LanguageFamily(
    model_type="qwen2",
    architectures=("Qwen2ForCausalLM",),
    read=_read,
    settings=_settings,
    examples=("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2-7B-Instruct"),
    chat=ChatFacts(
        image_tokens=("<|image_pad|>",),
        end_tokens=("<|im_end|>", "<|endoftext|>"),
        padding_tokens=("<|endoftext|>",),
        templates=(CHATML_TEMPLATE,),
    ),
)
