"""Mistral 7B (v0.1 to v0.3), Mistral Nemo, and models of their architecture."""

from typing import Any

from components.data.chat import MISTRAL_TEMPLATE, MISTRAL_TEXT_TEMPLATE, ChatFacts
from components.model.config import LanguageConfig
from components.model.families.hf_config import HfConfig
from components.model.families.language.decoder import decoder_settings, read_decoder
from components.model.families.language.family import LanguageFamily


def _read(config: HfConfig, vocabulary_multiple: int) -> LanguageConfig:
    config.refuse_unless("attention_bias", False)
    # v0.1 has a window, later ones null.
    return read_decoder(config, vocabulary_multiple, window=config.get("sliding_window"), family="mistral")


def _settings(config: LanguageConfig) -> dict[str, Any]:
    return {**decoder_settings(config), "sliding_window": None}


MISTRAL = LanguageFamily(
    model_type="mistral",
    architectures=("MistralForCausalLM",),
    read=_read,
    settings=_settings,
    examples=("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-Nemo-Instruct-2407"),
    chat=ChatFacts(
        # The row that later became [IMG] has a reserved name in v0.3 and in Nemo.
        image_tokens=("[IMG]", "[control_8]", "<SPECIAL_20>"),
        end_tokens=("</s>",),
        begin_tokens=("<s>",),
        padding_tokens=("<pad>",),
        control_tokens=("[INST]", "[/INST]"),
        templates=(MISTRAL_TEMPLATE, MISTRAL_TEXT_TEMPLATE),
    ),
)
