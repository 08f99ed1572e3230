"""Tokenizers as the weight conversion leaves them."""

from pathlib import Path

from components.data.chat import ChatFacts
from components.data.skeleton import Piece
from components.data.tokenizer import ChatTokenizer
from components.data.tokenizer_folder import prepare_tokenizer
from components.model.families.language.mistral import MISTRAL


def prepared(published: Path, folder: Path, facts: ChatFacts = MISTRAL.chat) -> ChatTokenizer:
    """Prepare a published tokenizer into a folder, beside what that holds, and load it."""
    folder.mkdir(parents=True, exist_ok=True)
    prepare_tokenizer(published, folder / "prepared", facts)
    for path in (folder / "prepared").iterdir():
        path.rename(folder / path.name)
    return ChatTokenizer.load(folder)


def control_id(tokenizer: ChatTokenizer, name: str) -> int:
    """Return the id of a control token, as the chat template writes it."""
    (number,) = tokenizer.encode_pieces((Piece("template", name),), [], 1).ids
    return number
