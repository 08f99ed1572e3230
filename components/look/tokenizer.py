"""The tokenizer by which a dataset is looked at."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from components.data.chat import ChatFacts
from components.data.tokenizer import TOKENIZER_FILE, ChatTokenizer
from components.data.tokenizer_folder import prepare_tokenizer
from components.download.random_weights import ControlTokens, save_tokenizer, train_on_texts
from components.model.families.hf_config import read_hf_config
from components.model.families.language.mistral import MISTRAL
from components.model.families.language.registry import family_of


@dataclass(frozen=True)
class LookTokenizer:
    """A tokenizer, and what it writes.

    Attributes:
        chat: What training encodes with.
        written: Decodes control tokens too.
        about: Where it comes from, for people.
    """

    chat: ChatTokenizer
    written: Tokenizer
    about: str


def published_tokenizer(source: Path, folder: Path) -> LookTokenizer:
    """Load the tokenizer of a published language model, as the weight conversion prepares it.

    Args:
        source: The model's folder in Hugging Face layout: `config.json`, `tokenizer.json` and what belongs to them.
        folder: Where the prepared tokenizer goes.

    Raises:
        InputError: A file is missing, or the tokenizer can't serve.
    """
    return _prepared(source, folder, family_of(read_hf_config(source)).chat, f"of {source}")


def trained_tokenizer(texts: Iterable[str], vocabulary: int, folder: Path) -> LookTokenizer:
    """Train a tokenizer on texts, as weights from `random://` have it.

    Args:
        texts: What it learns from.
        vocabulary: Most tokens.
        folder: Where it goes.
    """
    published = folder / "published"
    control = ControlTokens.of(MISTRAL)
    save_tokenizer(train_on_texts(texts, vocabulary, control), control, published)
    about = f"of at most {vocabulary} tokens, trained on the samples looked at"
    return _prepared(published, folder / "prepared", MISTRAL.chat, about)


def _prepared(source: Path, folder: Path, facts: ChatFacts, about: str) -> LookTokenizer:
    prepare_tokenizer(source, folder, facts)
    return LookTokenizer(ChatTokenizer.load(folder), Tokenizer.from_file(str(folder / TOKENIZER_FILE)), about)
