"""How a prompt reads, for people, whatever the model. Light on imports; the tokens, in the model's own words, are `prompt.py`'s."""

from typing import Literal

from components.data.conversation import IMAGE_MARKER, without_marker

PromptFormat = Literal["plain", "instruct"]


def prompt_text(question: str, prompt_format: PromptFormat) -> str:
    """Return what a model is asked, the picture's tokens as `<image>`, without the control tokens that each model has its own of.

    Args:
        question: Human text; dropped in the plain format.
        prompt_format: "plain" or "instruct".
    """
    return IMAGE_MARKER if prompt_format == "plain" else f"{IMAGE_MARKER}{without_marker(question)}"
