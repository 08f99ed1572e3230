"""Chat templates, rendered as transformers renders them: Jinja in a sandbox."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from components.errors import InputError

Message = Mapping[str, Any]


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template and what it is told.

    Attributes:
        source: The template.
        names: Names of special tokens, as pairs: "bos_token" and its like.
    """

    source: str
    names: tuple[tuple[str, str], ...] = ()

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Return the text of a chat.

        Args:
            messages: `{"role": "system" | "user" | "assistant", "content": text or parts}`.
            add_generation_prompt: End with what stands before an answer.

        Raises:
            InputError: The template refuses the messages, or is none.
        """
        try:
            template = _compiled(self.source)
            return template.render(
                messages=list(messages),
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **dict(self.names),
            )
        except jinja2.TemplateError as error:
            raise InputError(f"the chat template fails: {error}") from error
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
            raise InputError(f"the chat template fails: {type(error).__name__}: {error}") from error


class _Generation(Extension):
    """`{% generation %}`, with which templates mark answers; what is trained is found without it."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own form

    def parse(self, parser: Any) -> Any:
        """Return the block's content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=32)
def _compiled(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _today
    return environment.from_string(source)


def _to_json(value: Any, ensure_ascii: bool = False, **settings: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **settings)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _today(form: str) -> None:
    raise jinja2.TemplateError("it writes today's date, so that prompts would differ from day to day")
