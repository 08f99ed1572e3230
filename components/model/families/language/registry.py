"""The families of language models, by `model_type`."""

from components.errors import InputError
from components.model.config import LanguageConfig
from components.model.families.hf_config import HfConfig
from components.model.families.language.family import LanguageFamily
from components.model.families.language.llama import LLAMA
from components.model.families.language.mistral import MISTRAL
from components.model.families.language.qwen2 import QWEN2
from components.model.families.language.qwen3 import QWEN3

_FAMILIES = (
    MISTRAL,
    LLAMA,
    QWEN2,
    QWEN3,
)

LANGUAGE_FAMILIES = {family.model_type: family for family in _FAMILIES}

_NOT_SUPPORTED = {
    "mixtral": "a mixture of experts",
    "qwen2_moe": "a mixture of experts",
    "qwen3_moe": "a mixture of experts",
    "llama4": "a mixture of experts",
    "qwen2_vl": "a vision-language model already (M-RoPE)",
    "qwen2_5_vl": "a vision-language model already (M-RoPE)",
    "qwen3_vl": "a vision-language model already (M-RoPE)",
    "mllama": "a vision-language model already",
    "llava": "a vision-language model already",
}


def language_family(model_type: str) -> LanguageFamily:
    """Return a family.

    Args:
        model_type: As in `config.json` and `LanguageConfig.family`.

    Raises:
        InputError: There is no such family.
    """
    if model_type not in LANGUAGE_FAMILIES:
        raise InputError(f"{model_type!r} is no family of language models; there are {_names()}.")
    return LANGUAGE_FAMILIES[model_type]


def family_of(config: HfConfig) -> LanguageFamily:
    """Return the family that a `config.json` belongs to.

    Raises:
        InputError: The model is of no supported family.
    """
    family = LANGUAGE_FAMILIES.get(config.model_type)
    if family is None or config.architecture not in (*family.architectures, family.model_type):
        what = _NOT_SUPPORTED.get(config.model_type, f"model_type {config.model_type!r}")
        raise InputError(
            f"{config.source} is a {config.architecture}: {what}. As language model, these are supported: {_names()}."
        )
    return family


def read_language(config: HfConfig, vocabulary_multiple: int) -> LanguageConfig:
    """Read a language model's architecture.

    Args:
        config: Its `config.json`.
        vocabulary_multiple: The vocabulary is padded to a multiple of this.

    Raises:
        InputError: The family, or a feature of the model, is not supported.
    """
    return family_of(config).read(config, vocabulary_multiple)


def _names() -> str:
    return ", ".join(f"{name} ({family.examples[0]}, ...)" for name, family in LANGUAGE_FAMILIES.items())
