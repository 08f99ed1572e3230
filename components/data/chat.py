"""What a family of language models says about its chats: names of control tokens, and templates for tokenizers without one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources


@dataclass(frozen=True)
class ShippedTemplate:
    """A chat template of this project, in `chat_templates/`.

    Attributes:
        name: File name without `.jinja`.
        needs: Control tokens that it writes; a tokenizer without them can't use it.
        shows_pictures: Whether it writes pictures itself; `pictures.jinja` puts them into the text for the others.
    """

    name: str
    needs: tuple[str, ...] = ()
    shows_pictures: bool = False

    def text(self) -> str:
        """Return the template."""
        return template_file(self.name)


@dataclass(frozen=True)
class ChatFacts:
    """What has to be known of a family's tokenizers beside their files.

    A tokenizer's own files come first, always: its chat template, `bos_token`, `eos_token`, `pad_token`, and the end tokens
    of its `generation_config.json`.

    Attributes:
        image_tokens: Names of tokens that may stand for a part of a picture: the first that the tokenizer has. A tokenizer
            with none of them gets a new token, `<image>`.
        end_tokens: Tokens that end an answer or a text, as far as the tokenizer has them.
        begin_tokens: The first that the tokenizer has begins a text, where its files name none; none for no such token.
        padding_tokens: The first that the tokenizer has pads, where its files name none.
        control_tokens: Further tokens that text must never become, although their tokenizer does not say so.
        variables: What a chat template is told: name to value. Fixed in the template that is written, so that every user
            of it says the same.
        templates: For tokenizers without a template, and in place of templates that can't be trained on but give the same
            prompts: the first whose control tokens the tokenizer has.
    """

    image_tokens: tuple[str, ...] = ()
    end_tokens: tuple[str, ...] = ()
    begin_tokens: tuple[str, ...] = ()
    padding_tokens: tuple[str, ...] = ()
    control_tokens: tuple[str, ...] = ()
    variables: Mapping[str, str | bool] = field(default_factory=dict)
    templates: tuple[ShippedTemplate, ...] = ()


MISTRAL_TEMPLATE = ShippedTemplate("mistral", needs=("[INST]", "[/INST]"), shows_pictures=True)
"""Mistral v3, as mistral-common encodes it: a system prompt stands before the text of the last human turn."""

MISTRAL_TEXT_TEMPLATE = ShippedTemplate("mistral_text")
"""Mistral v0.1 and v0.2, whose `[INST]` is text; a system prompt stands before the first human turn."""

LLAMA2_TEMPLATE = ShippedTemplate("llama2")
LLAMA3_TEMPLATE = ShippedTemplate("llama3", needs=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
CHATML_TEMPLATE = ShippedTemplate("chatml", needs=("<|im_start|>", "<|im_end|>"))
QWEN3_TEMPLATE = ShippedTemplate("qwen3", needs=("<|im_start|>", "<|im_end|>", "<think>", "</think>"))
"""Qwen 3 without thinking: every answer follows an empty block of thoughts, and not the last alone."""


def template_file(name: str) -> str:
    """Return a file of `chat_templates/`, by its name without `.jinja`."""
    path = resources.files("components.data") / "chat_templates" / f"{name}.jinja"
    return path.read_text(encoding="utf-8")
