"""The chat tokenizer: a Hugging Face `tokenizer.json` whose control tokens only this code can place."""

import json
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from components.errors import InputError

TOKENIZER_FILE = "tokenizer.json"

_BEGIN = ("<s>",)
_END = ("</s>",)
_INSTRUCTION = ("[INST]",)
_INSTRUCTION_END = ("[/INST]",)
# Mistral-7B-Instruct-v0.3's tokenizer.json carries the row that later became [IMG] under its reserved name.
_IMAGE = ("[IMG]", "[control_8]")
_PADDING = ("<pad>",)

# How tokenizers write a word boundary: SentencePiece's lower one eighth block, byte-level BPE's dotted G.
_BOUNDARIES = ("\u2581", "\u0120")


class ChatTokenizer:
    """Encodes text of users and models, and knows the ids of the control tokens.

    Text is never parsed into control tokens: a caption that contains "[INST]" or "</s>" becomes ordinary pieces.

    Attributes:
        bos: Id of `<s>`.
        eos: Id of `</s>`.
        inst: Id of `[INST]`.
        inst_end: Id of `[/INST]`.
        image: Id of `[IMG]`, which stands for one patch of a picture.
        pad: Id of `<pad>`; `eos` for tokenizers without one (Mistral's own), as padding is never attended or trained.
        vocabulary: Number of ids.
    """

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        """Wrap a tokenizer prepared by `load`; `source` names it in errors."""
        self._tokenizer = tokenizer
        self.bos = _required_id(tokenizer, _BEGIN, source)
        self.eos = _required_id(tokenizer, _END, source)
        self.inst = _required_id(tokenizer, _INSTRUCTION, source)
        self.inst_end = _required_id(tokenizer, _INSTRUCTION_END, source)
        self.image = _required_id(tokenizer, _IMAGE, source)
        padding = _find_id(tokenizer, _PADDING)
        self.pad = self.eos if padding is None else padding
        self.vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)
        self._adds_boundary = _pieces(tokenizer, "a").startswith(_BOUNDARIES)
        # SentencePiece puts a boundary before blanks too; Hugging Face's newer form takes the first blank for it.
        self._adds_boundary_to_blank = _pieces(tokenizer, " a").startswith(tuple(2 * sign for sign in _BOUNDARIES))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the `tokenizer.json` of a folder.

        Raises:
            InputError: The file is missing, is not a tokenizer, or lacks a control token.
        """
        path = folder / TOKENIZER_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            tokenizer = Tokenizer.from_str(json.dumps(_without_parsing(content)))
        except FileNotFoundError:
            raise InputError(f"{path} does not exist. Expected a Hugging Face fast tokenizer in that folder.") from None
        except Exception as error:  # tokenizers raises bare Exception
            raise InputError(f"{path} is not a Hugging Face fast tokenizer: {error}") from error
        tokenizer.encode_special_tokens = True
        return cls(tokenizer, str(path))

    def encode(self, text: str) -> list[int]:
        """Return the ids of text that starts at a word boundary, as after `[INST]` in Mistral's template."""
        if not text:
            return []
        blank = text.startswith((" ", *_BOUNDARIES))
        adds_boundary = self._adds_boundary_to_blank if blank else self._adds_boundary
        bounded = text if adds_boundary else f" {text}"
        ids: list[int] = self._tokenizer.encode(bounded, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, without control tokens and without the first word's boundary."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text.removeprefix(" ")


def _without_parsing(content: dict[str, Any]) -> dict[str, Any]:
    """Make every added token special (those are not parsed), and drop merges that spell one out of pieces."""
    added = content.get("added_tokens") or []
    names = {token["content"] for token in added}
    model = dict(content["model"])
    if "merges" in model:
        # A merge is written "a b" in older files and ["a", "b"] in newer ones.
        model["merges"] = [
            merge
            for merge in model["merges"]
            if "".join(merge.split(" ") if isinstance(merge, str) else merge) not in names
        ]
    return {**content, "model": model, "added_tokens": [{**token, "special": True} for token in added]}


def _pieces(tokenizer: Tokenizer, text: str) -> str:
    return "".join(tokenizer.encode(text, add_special_tokens=False).tokens)


def _find_id(tokenizer: Tokenizer, names: tuple[str, ...]) -> int | None:
    ids = (tokenizer.token_to_id(name) for name in names)
    return next((number for number in ids if number is not None), None)


def _required_id(tokenizer: Tokenizer, names: tuple[str, ...], source: str) -> int:
    number = _find_id(tokenizer, names)
    if number is None:
        raise InputError(f"{source} has no control token {' or '.join(names)}; a Mistral v3 tokenizer is needed.")
    return number
