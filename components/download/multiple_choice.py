"""Multiple-choice questions: the one prompt format that fine-tuning data and evaluation share."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

LETTERS = "ABCDEFGHIJ"
INSTRUCTION = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class MultipleChoice:
    """A question with lettered options.

    Attributes:
        question: The question alone.
        options: Option texts, in the order of their letters.
        answer: Letter of the right option.
    """

    question: str
    options: tuple[str, ...]
    answer: str


def multiple_choice_prompt(question: str, options: Sequence[str]) -> str:
    """Return the text that is put to the model: question, one `(A) ...` line per option, instruction.

    The format is that of the MMMU benchmark as the reference recipe uses it.

    Raises:
        ValueError: There are more options than letters.
    """
    if len(options) > len(LETTERS):
        raise ValueError(f"{len(options)} options, but letters for only {len(LETTERS)}")
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *lines]) + f"\n\n{INSTRUCTION}"


def ask(question: str, right: str, wrong: Sequence[str], letter: str, rng: random.Random) -> MultipleChoice:
    """Make a question whose right option stands at `letter`; the wrong options are shuffled around it.

    Raises:
        ValueError: The right option is also among the wrong ones, or an option appears twice.
    """
    if len({right, *wrong}) != len(wrong) + 1:
        raise ValueError(f"The options of {question!r} are not all different: {right!r}, {list(wrong)!r}")
    options = list(wrong)
    rng.shuffle(options)
    options.insert(LETTERS.index(letter), right)
    return MultipleChoice(question, tuple(options), letter)


def balanced_letters(count: int, options: int, rng: random.Random) -> list[str]:
    """Return `count` letters of right answers in random order, each of the first `options` letters equally often (+-1)."""
    letters = [LETTERS[index % options] for index in range(count)]
    rng.shuffle(letters)
    return letters
