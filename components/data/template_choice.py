"""Which chat template a model is trained with: its tokenizer's own, if it can be, else one of the family's that asks the same."""

import contextlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.data.chat import ChatFacts, ShippedTemplate, template_file
from components.data.skeleton import Dialect, Part, Shape, skeleton
from components.errors import InputError

_TEXT: tuple[Part, ...] = ("text",)
_SHOWN: tuple[Part, ...] = ("image", "text")
_SHAPES = [Shape(system, (_TEXT,) * turns, answered=True) for system in (False, True) for turns in (1, 3)]


@dataclass(frozen=True)
class ChosenTemplate:
    """A chat template that a model can be trained with.

    Attributes:
        dialect: The template.
        name: "own" for the tokenizer's, else the name of this project's.
        reason: Why it is not the own one; empty where it is, or where there is none.
    """

    dialect: Dialect
    name: str
    reason: str


def choose_template(
    own: str,
    facts: ChatFacts,
    where: Path,
    *,
    dialect_of: Callable[[str], Dialect],
    known: Collection[str],
    boundary: str,
) -> ChosenTemplate:
    """Take the tokenizer's own chat template if it can be trained on, else one of the family's that gives the same prompts.

    Args:
        own: The tokenizer's template; empty without.
        facts: What the family says.
        where: The tokenizer's folder, for errors.
        dialect_of: Gives a template the tokenizer's tokens.
        known: Names of the tokenizer's tokens.
        boundary: What the family's templates write before a text, so that its first word begins at a word boundary.

    Raises:
        InputError: There is no such template.
    """
    shipped = next((entry for entry in facts.templates if all(name in known for name in entry.needs)), None)
    if not own:
        if shipped is None:
            raise InputError(
                f"{where} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json), and none of "
                "the family's fits its tokens. Add the template that the model is to be trained with."
            )
        return ChosenTemplate(dialect_of(_shipped_text(shipped, boundary)), shipped.name, "")
    fixed = _fixed(own, facts.variables)
    dialect = dialect_of(fixed)
    try:
        _check_trainable(dialect)
    except InputError as error:
        reason = str(error)
        if shipped is None:
            raise InputError(f"{where} can't be trained with its own chat template: {reason}.") from error
    else:
        seeing = dialect if _shows_pictures(dialect) else dialect_of(template_file("pictures") + fixed)
        return ChosenTemplate(seeing, "own", "")
    candidates = [dialect_of(_shipped_text(shipped, blank)) for blank in dict.fromkeys((boundary, "", " "))]
    return ChosenTemplate(_with_same_prompts(where, dialect, candidates, reason), shipped.name, reason)


def _shipped_text(shipped: ShippedTemplate, boundary: str) -> str:
    text = shipped.text().replace("<<BOUNDARY>>", boundary)
    return text if shipped.shows_pictures else template_file("pictures") + text


def _fixed(template: str, variables: Mapping[str, str | bool]) -> str:
    """Return a template with the values of those variables that it asks for."""
    lines = [
        f"{{%- set {name} = {json.dumps(value)} %}}\n"
        for name, value in variables.items()
        if re.search(rf"\b{name}\b", template)
    ]
    return "".join(lines) + template


def _check_trainable(dialect: Dialect) -> None:
    """Refuse a template that loses a text, or that writes something else once a turn is history."""
    for shape in _SHAPES:
        skeleton(dialect, shape)
        whole = dialect.template.render(_chat(shape.system, len(shape.humans), answered=True))
        for turns in range(1, len(shape.humans) + 1):
            asked = dialect.template.render(_chat(shape.system, turns, answered=False), add_generation_prompt=True)
            if not whole.startswith(asked):
                system = " with a system prompt" if shape.system else ""
                raise InputError(
                    f"the chat template writes question {turns} of {len(shape.humans)}{system} otherwise once it is answered"
                )


def _with_same_prompts(where: Path, own: Dialect, candidates: Sequence[Dialect], reason: str) -> Dialect:
    """Return the candidate that asks as the own template does; if all differ in blanks, which depend on the tokenizer, the first.

    Raises:
        InputError: They differ in more.
    """
    chats = [_chat(False, 1, answered=False)]
    with contextlib.suppress(InputError):  # a reason why it is replaced
        own.template.render(_chat(True, 1, answered=False), add_generation_prompt=True)
        chats.append(_chat(True, 1, answered=False))

    def prompts(dialect: Dialect) -> list[str]:
        return [dialect.template.render(chat, add_generation_prompt=True) for chat in chats]

    try:
        asked = prompts(own)
    except InputError as error:
        raise InputError(f"{where} can't be trained with its own chat template: {error}.") from error
    for candidate in candidates:
        if prompts(candidate) == asked:
            return candidate
    instead = prompts(candidates[0])
    if ["".join(text.split()) for text in instead] != ["".join(text.split()) for text in asked]:
        raise InputError(
            f"{where} can't be trained with its own chat template: {reason}. The family's own form of prompts differs from "
            f"it ({asked[0]!r} against {instead[0]!r}), so that it can't take its place."
        )
    return candidates[0]


def _chat(system: bool, turns: int, *, answered: bool) -> list[dict[str, str]]:
    chat = [{"role": "system", "content": "Sigma"}] if system else []
    for number in range(turns):
        chat += [{"role": "user", "content": f"Alpha{number}"}, {"role": "assistant", "content": f"Omega{number}"}]
    return chat if answered else chat[:-1]


def _shows_pictures(dialect: Dialect) -> bool:
    try:
        skeleton(dialect, Shape(False, (_SHOWN,), answered=True))
    except InputError:
        return False
    return True
