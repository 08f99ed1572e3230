"""RealWorldQA: questions that bring their options along, and open ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from components.errors import InputError
from components.tasks.kind import Answer
from components.tasks.kinds.multiple_choice import MultipleChoice
from components.tasks.kinds.questions import QuestionKind, Reading, read_questions
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task
from components.tasks.template import check_fields


class RealWorldQa(MultipleChoice):
    """Questions in JSON lines: with `options` and `answer` that stand in the question, too, or with `answers`.

    The prompt's `template` takes `{question}` alone. An open answer counts where it is the accepted one, whatever its case
    and but for a full stop.
    """

    version: ClassVar[int] = 1
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    readings: ClassVar[tuple[str, ...]] = ("mmbench", "plain")
    level: ClassVar[str] = "form"
    ground_truth: ClassVar[str] = (
        "JSON lines with `id`, `image`, `question`, and `options`, `answer` (a letter) or `answers`"
    )

    def check(self, task: Task) -> None:
        """Check that the prompt asks the question, for the letter."""
        QuestionKind.check(self, task)
        check_fields("prompt.template", task.prompt.template, ("question",))
        if task.prompt.answer != "letter":
            raise ValueError("prompt.answer: these questions name letters themselves")

    def load(self, path: Path) -> list[HeldOutSample]:
        """Read the questions; each has options or accepted answers."""
        samples = read_questions(path, "a question of RealWorldQA")
        for sample in samples:
            if len(sample.options) == 1 or bool(sample.options) == bool(sample.references):
                raise InputError(
                    f"{path}: question {sample.id} must have two `options` or more and an `answer`, or else `answers`."
                )
        return samples

    def ask(self, task: Task, sample: HeldOutSample) -> str:
        """Return the question, which has its options and its instruction."""
        return self.put(task, sample)

    def parse(self, task: Task, sample: HeldOutSample, text: str, seed: int) -> Reading:
        """Read a letter, or the open answer."""
        if sample.options:
            return super().parse(task, sample, text, seed)
        return Reading(_plain(text))

    def mark(self, sample: HeldOutSample, reading: Reading) -> float:
        """Return 1 for the right letter or the accepted answer."""
        if sample.options:
            return super().mark(sample, reading)
        return float(bool(reading.value) and reading.value in {_plain(text) for text in sample.references})

    def chance(self, sample: HeldOutSample) -> float | None:
        """Return the share of right ones among random letters; an open question can't be guessed."""
        return super().chance(sample) if sample.options else 0.0

    def groups(self, sample: HeldOutSample) -> Mapping[str, str]:
        """Return the sort of question."""
        return {self.level: "with options" if sample.options else "open", **dict(sample.groups)}

    def note(self, sample: HeldOutSample, text: str, reading: Reading, mark: float) -> Answer:
        """Return the answer with its letter, or with what was read from it."""
        if sample.options:
            return super().note(sample, text, reading, mark)
        return Answer(text=text, read=reading.value, correct=mark == 1)


def _plain(text: str) -> str:
    return text.strip().rstrip(".").lower()
