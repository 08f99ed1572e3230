"""Llama 2 and 3 (3, 3.1, 3.2, 3.3), and the many models of their architecture.

3.1 and later stretch the slow rotary frequencies; 3.2's small models tie the output layer to the embedding.
"""

from typing import Any

from components.data.chat import LLAMA2_TEMPLATE, LLAMA3_TEMPLATE, ChatFacts
from components.model.config import LanguageConfig
from components.model.families.hf_config import HfConfig
from components.model.families.language.decoder import decoder_settings, read_decoder
from components.model.families.language.family import LanguageFamily


def _read(config: HfConfig, vocabulary_multiple: int) -> LanguageConfig:
    config.refuse_unless("attention_bias", False)
    return read_decoder(config, vocabulary_multiple, window=None, family="llama")


def _settings(config: LanguageConfig) -> dict[str, Any]:
    return {**decoder_settings(config), "attention_bias": False, "mlp_bias": False}


LLAMA = LanguageFamily(
    model_type="llama",
    architectures=("LlamaForCausalLM",),
    read=_read,
    settings=_settings,
    examples=("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.2-1B-Instruct", "lmsys/vicuna-7b-v1.5"),
    chat=ChatFacts(
        image_tokens=("<|reserved_special_token_100|>",),
        end_tokens=("<|eot_id|>", "<|end_of_text|>", "</s>"),
        begin_tokens=("<|begin_of_text|>", "<s>"),
        padding_tokens=("<|finetune_right_pad_id|>", "<pad>"),
        # 3.2's template would write the date of today; this is the date that 3.1's writes.
        variables={"date_string": "26 Jul 2024"},
        templates=(LLAMA3_TEMPLATE, LLAMA2_TEMPLATE),
    ),
)
