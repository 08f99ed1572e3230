"""Multiple-choice questions: fine-tuning data asks in the words of the task that evaluates."""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from components.tasks.loading import load_task
from components.tasks.task import TaskPrompt
from components.tasks.template import LETTERS, option_lines

AnswerForm = Literal["letter", "text"]

TASKS: dict[AnswerForm, str] = {"letter": "multiple_choice", "text": "multiple_choice_text"}
"""The task that asks for each form of answer."""


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

    def turn(self, form: AnswerForm) -> tuple[str, str]:
        """Return the human turn and the right answer to it."""
        answer = self.answer if form == "letter" else self.options[LETTERS.index(self.answer)]
        return multiple_choice_prompt(self.question, self.options, form), answer


def multiple_choice_prompt(question: str, options: Sequence[str], form: AnswerForm = "letter") -> str:
    """Return the text that is put to the model, in the words of the task.

    The form "letter" is that of the MMMU benchmark as the reference recipe uses it. "text" is for models that are
    too small to look a letter up: which letter stands before a text takes a two-step circuit that a model of a few
    million parameters does not form within minutes.

    Raises:
        ValueError: There are more options than letters.
    """
    prompt = _prompt(form)
    return prompt.template.format(question=question, options=option_lines(prompt.option, options))


@functools.cache
def _prompt(form: AnswerForm) -> TaskPrompt:
    return load_task(TASKS[form]).prompt


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
