"""What a family of language models has to say."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from components.data.chat import ChatFacts
from components.model.config import LanguageConfig
from components.model.families.hf_config import HfConfig
from components.model.families.language.decoder import decoder_drops, decoder_rules
from components.model.families.rules import DropRule, TensorRule


@dataclass(frozen=True)
class LanguageFamily:
    """A family of language models as Hugging Face publishes them.

    Attributes:
        model_type: Its `model_type` in `config.json`; the registry's key.
        architectures: Names of the classes that are read.
        read: `config.json` and the multiple that the vocabulary is padded to become the architecture.

            Raises `InputError` where the model has a feature that is not supported.
        settings: The fields of transformers' configuration that describe an architecture: what `read` reads, written
            back. Without those that depend on the tokenizer or on the stored vocabulary.
        examples: Names that it was published under, for people.
        chat: What its tokenizers leave open.
        rules: What each parameter is made of.
        drops: What is left out on purpose.
    """

    model_type: str
    architectures: tuple[str, ...]
    read: Callable[[HfConfig, int], LanguageConfig]
    settings: Callable[[LanguageConfig], dict[str, Any]]
    examples: tuple[str, ...]
    chat: ChatFacts
    rules: Callable[[LanguageConfig], list[TensorRule]] = decoder_rules
    drops: Callable[[LanguageConfig], list[DropRule]] = decoder_drops
