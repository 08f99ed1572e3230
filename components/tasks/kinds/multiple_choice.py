"""Multiple choice: questions with lettered options.

Letters are read by one of the rules in `letters.py`. Answers without one are counted; where a rule guesses, the letter that
stands for such an answer is the same in every run.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from components.errors import InputError
from components.tasks.kind import Answer
from components.tasks.kinds.letters import OPTION_TEXT, RULES, LetterRule
from components.tasks.kinds.questions import Constant, QuestionKind, Reading, read_questions
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task
from components.tasks.template import LETTERS, check_fields, option_lines


class MultipleChoice(QuestionKind):
    """Questions with lettered options, in JSON lines: `id`, `image`, `question`, `options`, `answer`, `category`.

    The prompt's `template` takes `{question}` and `{options}`, and `{hint}` if it likes; its `option` `{letter}` and
    `{text}`; `answer` says whether the option's letter or its text is asked for: then `option` may do without `{letter}`.
    """

    version: ClassVar[int] = 2
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "group_accuracy")
    readings: ClassVar[tuple[str, ...]] = tuple(RULES)
    lead: ClassVar[str] = (
        "Green: the true option; red: a wrong choice of the model. The choice of questions is fixed and favours nothing."
    )
    ground_truth: ClassVar[str] = "JSON lines with `id`, `image`, `question`, `options`, `answer` (a letter)"

    def check(self, task: Task) -> None:
        """Check that the prompt asks the question with its options."""
        super().check(task)
        check_fields("prompt.template", task.prompt.template, ("question", "options"), optional=("hint",))
        if task.reading and task.prompt.answer == "text":
            raise ValueError("reading: where the option's text is asked for, nothing else is read; leave it out")
        lettered_options = task.prompt.answer == "letter" or "{letter}" in task.prompt.option
        check_fields("prompt.option", task.prompt.option, ("letter", "text") if lettered_options else ("text",))

    def load(self, path: Path) -> list[HeldOutSample]:
        """Read the questions; each must have options."""
        samples = read_questions(path, "a multiple-choice question")
        bare = [sample.id for sample in samples if len(sample.options) < 2]
        if bare:
            raise InputError(
                f"{path}: question {bare[0]} is not a multiple-choice question: it needs two options or more."
            )
        return samples

    def ask(self, task: Task, sample: HeldOutSample) -> str:
        """Return question, options and instruction."""
        options = option_lines(task.prompt.option, sample.options)
        return self.put(task, sample, options=options)

    def rule(self, task: Task) -> LetterRule:
        """Return the rule by which a task's answers are read."""
        return OPTION_TEXT if task.prompt.answer == "text" else RULES[task.reading or self.readings[0]]

    def parse(self, task: Task, sample: HeldOutSample, text: str, seed: int) -> Reading:
        """Read a letter, or the text of an option where the task asks for that."""
        rule = self.rule(task)
        letter = rule.read(text, sample.options)
        if letter:
            return Reading(letter)
        return Reading(stand_in(sample.options, sample.id, seed) if rule.guesses else "", readable=False)

    def mark(self, sample: HeldOutSample, reading: Reading) -> float:
        """Return 1 for the right letter."""
        return float(reading.value == sample.answer)

    def constant(self, samples: Sequence[HeldOutSample]) -> Constant:
        """Return the letter that is right most often."""
        return constant_letter(samples)

    def chance(self, sample: HeldOutSample) -> float | None:
        """Return the share of right ones among random letters."""
        return 1 / len(sample.options)

    def note(self, sample: HeldOutSample, text: str, reading: Reading, mark: float) -> Answer:
        """Return the answer with its letter."""
        return Answer(text=text, letter=reading.value, parsed=reading.readable, correct=mark == 1)

    def explain(self, task: Task, unparsed: int) -> str:
        """Return how many answers had no letter."""
        worth = "a fixed arbitrary one" if self.rule(task).guesses else "wrong"
        return f"{unparsed} answers had no readable choice and count as {worth}."


def stand_in(options: Sequence[str], sample_id: str, seed: int) -> str:
    """Return the letter that stands for an unreadable answer: any of them, and the same one in every run."""
    digest = hashlib.sha256(f"{seed}/{sample_id}".encode()).digest()
    return LETTERS[int.from_bytes(digest[:8]) % len(options)]


def constant_letter(samples: Sequence[HeldOutSample]) -> Constant:
    """Return the letter that is right most often, the first of equals; samples without options have no right letter."""
    answers = [sample.answer if sample.options else "" for sample in samples]
    letters = sorted(set(answers) - {""}) or ["A"]
    best = max(letters, key=answers.count)
    return Constant(best, Reading(best))
