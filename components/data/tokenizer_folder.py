"""A published tokenizer becomes a model folder's: what its files leave open is settled, or it is refused."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_json
from tokenizers import AddedToken, Tokenizer

from components.data.chat import ChatFacts
from components.data.chat_template import ChatTemplate
from components.data.skeleton import Dialect, Part, Shape, end_token, skeleton
from components.data.template_choice import choose_template
from components.data.tokenizer import (
    CHAT_TEMPLATE_FILE,
    GENERATION_FILE,
    TOKENIZER_FILE,
    TOKENIZER_SETTINGS_FILE,
    ChatTokenizer,
    inert,
    read_tokenizer,
    template_names,
)
from components.errors import InputError

NEW_IMAGE_TOKEN = "<image>"
_SLOW_FILES = ("tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
# How tokenizers write a word boundary: SentencePiece's lower one eighth block, byte-level BPE's dotted G.
_BOUNDARIES = ("\u2581", "\u0120")
_TEXT: tuple[Part, ...] = ("text",)
_SHOWN: tuple[Part, ...] = ("image", "text")
_BETWEEN: tuple[Part, ...] = ("text", "image", "text", "image")
_BARE: tuple[Part, ...] = ("image",)
_WITH_PICTURES: list[tuple[tuple[Part, ...], ...]] = [(_SHOWN,), (_SHOWN, _TEXT), (_BETWEEN, _TEXT), (_BARE,)]
_SHAPES_WITH_PICTURES = [
    Shape(system, humans, answered=answered)
    for system in (False, True)
    for humans in _WITH_PICTURES
    for answered in (True, False)
]


@dataclass(frozen=True)
class PreparedTokenizer:
    """What became of a tokenizer.

    Attributes:
        vocabulary: The highest id and one.
        image: Id of the image token.
        image_name: Its name.
        added_image: Whether the image token is new: no row of the published weights is meant for it.
        template: "own" for the tokenizer's chat template, else the name of this project's.
        reason: Why it is not the own one; empty where it is, or where there is none.
    """

    vocabulary: int
    image: int
    image_name: str
    added_image: bool
    template: str
    reason: str


def prepare_tokenizer(source: Path, target: Path, facts: ChatFacts) -> PreparedTokenizer:
    """Write the tokenizer's folder of a model: `tokenizer.json`, settings, chat template and end tokens, as transformers loads them.

    Args:
        source: The language model in Hugging Face layout.
        target: The new folder; what an interrupted run has left there is replaced.
        facts: What the family says about its tokenizers.

    Raises:
        InputError: The tokenizer can't serve: it has no `tokenizer.json` or no end token, or its chat template fails on a
            system prompt or several turns, or writes an answer otherwise once it is history.
    """
    files = _SourceFiles.read(source)
    content = files.content
    names = _special_names(files, content, facts)
    tokenizer = inert(content)
    added_image = "image" not in names
    names.setdefault("image", NEW_IMAGE_TOKEN)
    ends = _end_names(files, content, facts)
    if not ends:
        raise InputError(
            f"{source} has no token that ends an answer (eos_token of {TOKENIZER_SETTINGS_FILE}, eos_token_id of "
            f"{GENERATION_FILE}, or one of {', '.join(facts.end_tokens) or 'the family'})."
        )
    content = _with_control_tokens(content, tokenizer, (*names.values(), *ends, *facts.control_tokens))
    content = _without_merges_into_controls(content)

    def dialect_of(template: str) -> Dialect:
        settled = template.replace("<<IMAGE>>", names["image"])
        return Dialect(ChatTemplate(settled, template_names(dict(names))), names["image"], ends)

    chosen = choose_template(
        files.template, facts, source, dialect_of=dialect_of, known=_vocabulary(content), boundary=_boundary(tokenizer)
    )
    dialect = chosen.dialect
    names["eos"] = end_token(dialect)
    _write(target, files, content, dialect, names)
    written = ChatTokenizer.load(target)
    for shape in _SHAPES_WITH_PICTURES:
        try:
            skeleton(written.dialect, shape)
        except InputError as error:
            raise InputError(f"The chat template of {source} can't show pictures: {error}.") from error
    return PreparedTokenizer(
        vocabulary=written.vocabulary,
        image=written.image,
        image_name=names["image"],
        added_image=added_image,
        template=chosen.name,
        reason=chosen.reason,
    )


@dataclass(frozen=True)
class _SourceFiles:
    """What is read of a published tokenizer."""

    folder: Path
    content: dict[str, Any]
    settings: dict[str, Any]
    generation: dict[str, Any]
    template: str

    @classmethod
    def read(cls, folder: Path) -> "_SourceFiles":
        if not (folder / TOKENIZER_FILE).is_file():
            slow = [name for name in _SLOW_FILES if (folder / name).is_file()]
            hint = f" It has {', '.join(slow)}: transformers' AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) converts that."
            raise InputError(
                f"{folder / TOKENIZER_FILE} is missing: the language model comes without a fast tokenizer."
                f"{hint if slow else ''}"
            )
        settings = _optional_json(folder / TOKENIZER_SETTINGS_FILE)
        return cls(
            folder,
            read_tokenizer(folder),
            settings,
            _optional_json(folder / GENERATION_FILE),
            _template(folder, settings),
        )


def _template(folder: Path, settings: Mapping[str, Any]) -> str:
    """Return the tokenizer's chat template, in any of the places where transformers looks for it; empty without."""
    if (folder / CHAT_TEMPLATE_FILE).is_file():
        return (folder / CHAT_TEMPLATE_FILE).read_text(encoding="utf-8")
    found: Any = settings.get("chat_template") or _optional_json(folder / "chat_template.json").get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found or ""


def _special_names(files: _SourceFiles, content: Mapping[str, Any], facts: ChatFacts) -> dict[str, str]:
    """Return role to name of the special tokens that there are, the files' own first."""
    known = _vocabulary(content)
    own = {role: _name(files.settings.get(f"{role}_token")) for role in ("bos", "eos", "pad", "unk", "image")}
    own["unk"] = own["unk"] or content["model"].get("unk_token")
    fallback = {
        "bos": () if "bos_token" in files.settings else facts.begin_tokens,
        "eos": facts.end_tokens,
        "pad": facts.padding_tokens,
        "image": facts.image_tokens,
    }
    names = {}
    for role in own:
        found = next((name for name in (own[role], *fallback.get(role, ())) if name and name in known), None)
        if found:
            names[role] = found
    return names


def _end_names(files: _SourceFiles, content: Mapping[str, Any], facts: ChatFacts) -> tuple[str, ...]:
    known = _vocabulary(content)
    by_id = {number: name for name, number in known.items()}
    listed = files.generation.get("eos_token_id")
    listed = listed if isinstance(listed, list) else [listed]
    found = [_name(files.settings.get("eos_token")), *(by_id.get(number) for number in listed), *facts.end_tokens]
    return tuple(dict.fromkeys(name for name in found if name and name in known))


def _boundary(tokenizer: Tokenizer) -> str:
    """Return what has to stand before a text, after a control token, so that its first word begins at a word boundary."""
    mark = "\ufdd0"
    probe = Tokenizer.from_str(tokenizer.to_str())
    probe.add_tokens([AddedToken(mark, special=False, normalized=False)])

    def pieces(text: str) -> str:
        return "".join(probe.encode(mark + text, add_special_tokens=False).tokens[1:])

    by_itself = pieces("a").startswith(_BOUNDARIES) and pieces(" a").startswith(tuple(2 * sign for sign in _BOUNDARIES))
    return "" if by_itself else " "


def _write(
    target: Path, files: _SourceFiles, content: dict[str, Any], dialect: Dialect, names: Mapping[str, str]
) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    by_name = _vocabulary(content)
    eos = names["eos"]
    pad = names.get("pad", eos)
    ends = dict.fromkeys([eos, *dialect.end_tokens])
    settings: dict[str, Any] = {
        # The class that takes tokenizer.json as it is; others rebuild it by their model's rules.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": name for role, name in names.items() if role in ("bos", "eos", "unk")},
        "pad_token": pad,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "image_token": names["image"],
        "extra_special_tokens": {"image_token": names["image"]},
    }
    if "model_max_length" in files.settings:
        settings["model_max_length"] = files.settings["model_max_length"]
    generation: dict[str, Any] = {"eos_token_id": [by_name[name] for name in ends], "pad_token_id": by_name[pad]}
    if "bos" in names:
        generation["bos_token_id"] = by_name[names["bos"]]
    # The chat template writes what begins a text.
    bare = {**content, "post_processor": None, "truncation": None, "padding": None}
    _dump(target / TOKENIZER_FILE, bare)
    _dump(target / TOKENIZER_SETTINGS_FILE, settings)
    _dump(target / GENERATION_FILE, generation)
    (target / CHAT_TEMPLATE_FILE).write_text(dialect.template.source, encoding="utf-8")


def _with_control_tokens(content: dict[str, Any], tokenizer: Tokenizer, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the tokenizer with control tokens that are cut out of a text exactly, new ones after the last id."""
    added = {token["content"]: token for token in content.get("added_tokens") or []}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for name in dict.fromkeys(names):
        if name in added:
            added[name] = {**added[name], "special": True}
            continue
        if tokenizer.token_to_id(name) is None:
            if name != NEW_IMAGE_TOKEN:
                continue
            tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False)])
        added[name] = {"id": tokenizer.token_to_id(name), "content": name, **flags}
    return {**content, "added_tokens": sorted(added.values(), key=lambda token: int(token["id"]))}


def _without_merges_into_controls(content: dict[str, Any]) -> dict[str, Any]:
    """Drop merges that spell an added token out of pieces."""
    names = {token["content"] for token in content.get("added_tokens") or []}
    model = dict(content["model"])
    if "merges" in model:
        # A merge is written "a b" in older files and ["a", "b"] in newer ones.
        model["merges"] = [
            merge
            for merge in model["merges"]
            if "".join(merge.split(" ") if isinstance(merge, str) else merge) not in names
        ]
    return {**content, "model": model}


def _vocabulary(content: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pairs of piece and score
        vocabulary = {piece: number for number, (piece, _) in enumerate(vocabulary)}
    return {**vocabulary, **{token["content"]: token["id"] for token in content.get("added_tokens") or []}}


def _name(token: Any) -> str | None:
    """Return the name of a special token, which settings write as text or as an object."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _dump(path: Path, content: Mapping[str, Any]) -> None:
    path.write_bytes(to_json(content, indent=1))  # json's own indents in Python: half a second for a large vocabulary


def _optional_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}
