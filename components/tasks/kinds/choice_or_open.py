"""Questions of which some have options and some are open, in one task: MMMU, RealWorldQA."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from components.errors import InputError
from components.tasks.kind import Answer
from components.tasks.kinds.multiple_choice import MultipleChoice
from components.tasks.kinds.questions import Reading, read_questions
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task


class ChoiceOrOpen(MultipleChoice):
    """Questions in JSON lines as for multiple choice, and open ones with `answers` instead of `options` and `answer`.

    Attributes:
        what: What a question is called in errors.
    """

    what: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    ground_truth: ClassVar[str] = (
        "JSON lines with `id`, `image`, `question`, and `options`, `answer` (a letter) or `answers`"
    )

    def load(self, path: Path) -> list[HeldOutSample]:
        """Read the questions; each has options or accepted answers."""
        samples = read_questions(path, self.what)
        for sample in samples:
            if len(sample.options) == 1 or bool(sample.options) == bool(sample.references):
                raise InputError(
                    f"{path}: question {sample.id} must have two `options` or more and an `answer`, or else `answers`."
                )
        return samples

    @abstractmethod
    def parse_open(self, text: str) -> Reading:
        """Read an answer to an open question."""

    @abstractmethod
    def mark_open(self, sample: HeldOutSample, reading: Reading) -> float:
        """Return the mark of an open question, 0 or 1."""

    def parse(self, task: Task, sample: HeldOutSample, text: str, seed: int) -> Reading:
        """Read a letter, or the open answer."""
        return super().parse(task, sample, text, seed) if sample.options else self.parse_open(text)

    def mark(self, sample: HeldOutSample, reading: Reading) -> float:
        """Return 1 for the right letter, or for an accepted open answer."""
        return super().mark(sample, reading) if sample.options else self.mark_open(sample, reading)

    def chance(self, sample: HeldOutSample) -> float | None:
        """Return the share of right ones among random letters; an open question can't be guessed."""
        return super().chance(sample) if sample.options else 0.0

    def note(self, sample: HeldOutSample, text: str, reading: Reading, mark: float) -> Answer:
        """Return the answer with its letter, or with what was read from it."""
        if sample.options:
            return super().note(sample, text, reading, mark)
        return Answer(text=text, read=reading.value, correct=mark == 1)


def form_of(sample: HeldOutSample) -> str:
    """Return which of the two a question is, as results are grouped by."""
    return "with options" if sample.options else "open"
