"""The tokenizer by which a dataset is looked at: that of the model that would be trained, wherever it comes from."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from components.data.chat import ChatFacts
from components.data.tokenizer import TOKENIZER_FILE, ChatTokenizer
from components.data.tokenizer_folder import prepare_tokenizer
from components.download.random_weights import ControlTokens, save_tokenizer, train_on_texts
from components.download.weights import TOKENIZER_FILES
from components.download.weights_config import WeightsConfig
from components.errors import InputError, StageError
from components.model.config import TOKENIZER_FOLDER
from components.model.families.hf_config import read_hf_config
from components.model.families.language.registry import family_of, language_family
from components.sources.folder import SourceFolder
from components.storage.config import TransferConfig


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
    """Load the tokenizer of a language model's folder.

    Args:
        source: A model in Hugging Face layout (`config.json`, `tokenizer.json` and what belongs to them), whose tokenizer is prepared as
            the weight conversion does it; or a model folder of a run, whose tokenizer is.
        folder: Where the prepared tokenizer goes.

    Raises:
        InputError: A file is missing, or the tokenizer can't serve.
    """
    own = source / TOKENIZER_FOLDER
    if (own / TOKENIZER_FILE).is_file():
        return LookTokenizer(
            ChatTokenizer.load(own), Tokenizer.from_file(str(own / TOKENIZER_FILE)), f"of the run's {own}"
        )
    return _prepared(source, folder, family_of(read_hf_config(source)).chat, f"of {source}")


def source_tokenizer(uri: str, transfer: TransferConfig, folder: Path) -> LookTokenizer:
    """Load the tokenizer of the language model that a preset names; of its files these few are fetched alone.

    Args:
        uri: `weights.language_source`.
        transfer: How patient fetching is.
        folder: Where the files and the prepared tokenizer go.

    Raises:
        InputError: There is no such model, or its tokenizer can't serve.
        StageError: It can't be reached.
    """
    try:
        source = SourceFolder(uri, "weights.language_source", transfer)
        published = folder / "published"
        published.mkdir(parents=True)
        for name in TOKENIZER_FILES:
            if name in source.files:
                with source.open(name) as stream:
                    (published / name).write_bytes(stream.read())
    except (InputError, StageError) as error:
        raise type(error)(
            f"The tokenizer of the preset's language model can't be had: {error} Name a folder that has it by --tokenizer."
        ) from error
    found = published_tokenizer(published, folder / "prepared")
    return replace(found, about=f"of {source.shown}")


def trained_tokenizer(texts: Iterable[str], weights: WeightsConfig, folder: Path) -> LookTokenizer:
    """Train a tokenizer on texts, as language models from `random://` have it.

    Args:
        texts: What it learns from.
        weights: Says its family, whose control tokens and chats it has, and its size.
        folder: Where it goes.
    """
    published = folder / "published"
    family = language_family(weights.language.family)
    control = ControlTokens.of(family)
    save_tokenizer(train_on_texts(texts, weights.vocabulary, control), control, published)
    about = f"of at most {weights.vocabulary} tokens, of the family {weights.language.family}, trained on the samples looked at"
    return _prepared(published, folder / "prepared", family.chat, about)


def _prepared(source: Path, folder: Path, facts: ChatFacts, about: str) -> LookTokenizer:
    prepare_tokenizer(source, folder, facts)
    return LookTokenizer(ChatTokenizer.load(folder), Tokenizer.from_file(str(folder / TOKENIZER_FILE)), about)
