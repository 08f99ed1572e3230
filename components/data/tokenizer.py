"""The chat tokenizer: a Hugging Face `tokenizer.json` whose control tokens the chat template alone can place."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from tokenizers import AddedToken, Tokenizer

from components.data.chat_template import ChatTemplate
from components.data.skeleton import Dialect, Piece, answer_lead, answer_tail, end_token
from components.errors import InputError

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_SETTINGS_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
GENERATION_FILE = "generation_config.json"

_STAND_IN = "\ufdd0{number}\ufdd1"  # noncharacters: no text has them
_STAND_INS = re.compile("\ufdd0\\d+\ufdd1")


class Encoded(NamedTuple):
    """Token ids, and for each whether it is learnt."""

    ids: list[int]
    trained: list[bool]


class ChatTokenizer:
    """Encodes what chats are made of, and knows the control tokens.

    Text is never parsed into control tokens: a caption that contains "[INST]" or "<|im_end|>" becomes ordinary pieces. What
    the chat template writes is, in one pass over the whole chat, so that ids are those of transformers' `apply_chat_template`.

    Attributes:
        bos: Id of the token that begins a text; None where the model knows none (Qwen).
        eos: Id of the token that ends an answer: the one that is learnt.
        ends: Ids of all tokens that end an answer; `eos` is the first.
        image: Id of the token that stands for a part of a picture.
        pad: Id of the padding token; `eos` for tokenizers without one, as padding is never attended or trained.
        vocabulary: The highest id and one.
        bos_name: Name of `bos`; empty without.
        image_name: Name of `image`.
        control_ids: Ids that text never becomes.
        dialect: The chat template.
    """

    def __init__(self, tokenizer: Tokenizer, content: dict[str, Any], dialect: Dialect, names: dict[str, str]) -> None:
        """Wrap the parts that `load` reads; `names` has "bos", "pad" and "image", as far as there are such tokens."""
        added = content.get("added_tokens") or []
        self._special = {token["id"] for token in added if token["special"]}
        unknown = content["model"].get("unk_token")
        control = [token for token in added if is_control(token)]
        self.control_ids = {token["id"] for token in control if token["content"] != unknown}
        self._tokenizer = tokenizer
        self._stand_ins = _add_stand_ins(tokenizer, control)
        self._names = {token["content"]: _STAND_IN.format(number=token["id"]) for token in control}
        self._pattern = re.compile("|".join(re.escape(name) for name in sorted(self._names, key=len, reverse=True)))
        self.dialect = dialect
        self.bos_name, self.image_name = names.get("bos", ""), names["image"]
        self.bos = self._required(self.bos_name) if self.bos_name else None
        self.image = self._required(self.image_name)
        ends = [self._required(name) for name in (end_token(dialect), *dialect.end_tokens)]
        self.ends = tuple(dict.fromkeys(ends))
        self.eos = self.ends[0]
        self.pad = self._required(names["pad"]) if "pad" in names else self.eos
        ids = [*content["model"]["vocab"].values()] if isinstance(content["model"]["vocab"], dict) else []
        self.vocabulary = 1 + max([*ids, len(content["model"]["vocab"]) - 1, *(token["id"] for token in added)])
        self._lead, self._tail = answer_lead(dialect), answer_tail(dialect)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the tokenizer of a model folder, as `tokenizer_folder.prepare_tokenizer` writes it.

        Raises:
            InputError: A file is missing, or is not what it must be.
        """
        content = read_tokenizer(folder)
        settings = _read_json(folder / TOKENIZER_SETTINGS_FILE)
        source = _read_text(folder / CHAT_TEMPLATE_FILE)
        generation = _read_json(folder / GENERATION_FILE)
        names = {
            role: settings[f"{role}_token"]
            for role in ("bos", "eos", "pad", "unk", "image")
            if settings.get(f"{role}_token")
        }
        by_id = {token["id"]: token["content"] for token in content.get("added_tokens") or []}
        try:
            ends = tuple(by_id[number] for number in generation["eos_token_id"])
            dialect = Dialect(ChatTemplate(source, template_names(names)), image_token=names["image"], end_tokens=ends)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{folder} is no tokenizer that the weight conversion wrote ({error!r} is missing). Convert the weights again."
            ) from None
        return cls(inert(content), content, dialect, names)

    @property
    def generation_ids(self) -> dict[str, Any]:
        """The special tokens as transformers' configurations name them."""
        ends: Any = self.eos if len(self.ends) == 1 else list(self.ends)
        return {"bos_token_id": self.bos, "eos_token_id": ends, "pad_token_id": self.pad}

    def encode(self, text: str) -> list[int]:
        """Return the ids of text as an answer begins with it: in Mistral's template its first word stands at a word boundary."""
        if not text:
            return []
        # The picture keeps the tokenizer from treating the text as the beginning of everything.
        pieces = (Piece("image"), Piece("template", self._lead), Piece("text", slot=0))
        return self.encode_pieces(pieces, [text], 1).ids[1:]

    def encode_pieces(self, pieces: Sequence[Piece], texts: Sequence[str], image_tokens: int) -> Encoded:
        """Encode a chat.

        Args:
            pieces: Its pieces.
            texts: Its texts, by the pieces' slots.
            image_tokens: Tokens of a picture.

        Returns:
            Ids, with every picture as so many image tokens, and what is learnt.

        Raises:
            InputError: A text would become a control token all the same, or join what is learnt with what is not.
        """
        written: list[str] = []
        spans: list[tuple[int, int]] = []
        length = 0
        for piece in pieces:
            text = self._written(piece, texts)
            if piece.trained and spans and spans[-1][1] == length:
                spans[-1] = (spans[-1][0], length + len(text))
            elif piece.trained:
                spans.append((length, length + len(text)))
            written.append(text)
            length += len(text)
        encoding = self._tokenizer.encode("".join(written), add_special_tokens=False)
        return self._resolved(encoding.ids, encoding.offsets, spans, image_tokens)

    def caption_pieces(self, pictures: int, *, answered: bool) -> tuple[Piece, ...]:
        """Return the pieces of pictures with their caption alone, without a chat's words; the caption's slot is 0."""
        asked = (Piece("template", self.bos_name), *(Piece("image") for _ in range(pictures)))
        learnt = (
            Piece("template", self._lead, trained=True),
            Piece("text", slot=0, trained=True),
            Piece("template", self._tail, trained=True),
        )
        return (*asked, *learnt) if answered else asked

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without control tokens and without the first word's boundary.

        A model may have more rows than its tokenizer has ids, and say one of them: it has no text.
        """
        said = [number for number in ids if number < self.vocabulary and number not in self._special]
        text: str = self._tokenizer.decode(said, skip_special_tokens=False)
        return text.removeprefix(" ")

    def _written(self, piece: Piece, texts: Sequence[str]) -> str:
        """Return a piece as the tokenizer gets it: with stand-ins for control tokens."""
        if piece.kind == "template":
            return self._pattern.sub(lambda found: self._names[found[0]], piece.text)
        if piece.kind == "image":
            return self._names[self.image_name]
        text = texts[piece.slot]
        if _STAND_INS.search(text):
            raise InputError("a text holds a sequence of noncharacters that is reserved for control tokens")
        return text

    def _resolved(
        self, found: list[int], offsets: list[tuple[int, int]], spans: list[tuple[int, int]], image_tokens: int
    ) -> Encoded:
        """Put control tokens in for their stand-ins, and tell what is learnt."""
        ids: list[int] = []
        trained: list[bool] = []
        number = 0
        for token, (begin, end) in zip(found, offsets, strict=True):
            while number < len(spans) and begin >= spans[number][1]:
                number += 1
            start = spans[number][0] if number < len(spans) else end
            if begin < start < end:
                raise InputError("the tokenizer joins the beginning of an answer with what stands before it")
            control = self._stand_ins.get(token)
            if control is None and token in self.control_ids:
                raise InputError(
                    f"the tokenizer makes the control token {self._tokenizer.id_to_token(token)!r} out of text"
                )
            count = image_tokens if control == self.image else 1
            ids += [token if control is None else control] * count
            trained += [number < len(spans) and begin >= start] * count
        return Encoded(ids, trained)

    def _required(self, name: str) -> int:
        number: int | None = self._tokenizer.token_to_id(name)
        if number is None:
            raise InputError(f"the tokenizer has no token {name!r}")
        return number


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's `tokenizer.json`.

    Raises:
        InputError: The file is missing or is not a fast tokenizer.
    """
    content = _read_json(folder / TOKENIZER_FILE)
    if not isinstance(content.get("model"), dict) or "vocab" not in content["model"]:
        raise InputError(
            f"{folder / TOKENIZER_FILE} is not a Hugging Face fast tokenizer: it has no model with a vocabulary."
        )
    return content


def inert(content: dict[str, Any]) -> Tokenizer:
    """Return a tokenizer that takes no control token out of a text.

    Args:
        content: Of a `tokenizer.json`.

    Raises:
        InputError: It is none.
    """
    added = [{**token, "special": token["special"] or is_control(token)} for token in content.get("added_tokens") or []]
    bare = {**content, "added_tokens": added, "post_processor": None, "truncation": None, "padding": None}
    try:
        tokenizer = Tokenizer.from_str(json.dumps(bare))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"the tokenizer is not a Hugging Face fast tokenizer: {error}") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def is_control(token: dict[str, Any]) -> bool:
    """Tell whether an added token is a control token; single letters and runs of blanks are text that was added."""
    return bool(token["special"]) or len(token["content"].strip()) > 1


def template_names(names: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what a chat template is told of a tokenizer's special tokens, as transformers tells it."""
    return tuple((f"{role}_token", name) for role, name in sorted(names.items()))


def _add_stand_ins(tokenizer: Tokenizer, control: Sequence[dict[str, Any]]) -> dict[int, int]:
    """Add a token in place of every control token, which the template's text is parsed into; return it with what it means."""
    added = [
        AddedToken(
            _STAND_IN.format(number=token["id"]),
            special=False,
            **{flag: token[flag] for flag in ("single_word", "lstrip", "rstrip", "normalized")},
        )
        for token in control
    ]
    tokenizer.add_tokens(added)
    ids = [tokenizer.token_to_id(stand_in.content) for stand_in in added]
    return {number: token["id"] for number, token in zip(ids, control, strict=True) if number is not None}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist. Expected the tokenizer's folder of a converted model; a folder of an earlier version "
            "has to be converted again."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object.")
    return content
