"""How a prompt reads, for people, in Mistral's words. Light on imports; the tokens, in the model's own, are `prompt.py`'s."""

from typing import Literal

from components.data.conversation import IMAGE_MARKER, without_marker

PromptFormat = Literal["plain", "instruct"]


def prompt_text(question: str, prompt_format: PromptFormat) -> str:
    """Return what stands before the answer, control tokens by their names and the picture's tokens as `<image>`.

    Args:
        question: Human text; dropped in the plain format.
        prompt_format: "plain" or "instruct".
    """
    if prompt_format == "plain":
        return f"<s>{IMAGE_MARKER}"
    return f"<s>[INST]{IMAGE_MARKER}{without_marker(question)}[/INST]"
