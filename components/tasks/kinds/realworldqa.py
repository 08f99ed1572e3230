"""RealWorldQA: questions that bring their options along, and open ones."""

from collections.abc import Mapping
from typing import ClassVar

from components.tasks.kinds.choice_or_open import ChoiceOrOpen, form_of
from components.tasks.kinds.questions import QuestionKind, Reading
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task
from components.tasks.template import check_fields


class RealWorldQa(ChoiceOrOpen):
    """Questions in JSON lines: with `options` and `answer` that stand in the question, too, or with `answers`.

    The prompt's `template` takes `{question}` alone. An open answer counts where it is the accepted one, whatever its case
    and but for a full stop.
    """

    version: ClassVar[int] = 1
    what: ClassVar[str] = "a question of RealWorldQA"
    readings: ClassVar[tuple[str, ...]] = ("mmbench", "plain")
    level: ClassVar[str] = "form"

    def check(self, task: Task) -> None:
        """Check that the prompt asks the question, for the letter."""
        QuestionKind.check(self, task)
        check_fields("prompt.template", task.prompt.template, ("question",))
        if task.prompt.answer != "letter":
            raise ValueError("prompt.answer: these questions name letters themselves")

    def ask(self, task: Task, sample: HeldOutSample) -> str:
        """Return the question, which has its options and its instruction."""
        return self.put(task, sample)

    def parse_open(self, text: str) -> Reading:
        """Return the answer as it is compared."""
        return Reading(_plain(text))

    def mark_open(self, sample: HeldOutSample, reading: Reading) -> float:
        """Return 1 for the accepted answer."""
        return float(bool(reading.value) and reading.value in {_plain(text) for text in sample.references})

    def groups(self, sample: HeldOutSample) -> Mapping[str, str]:
        """Return the sort of question."""
        return {self.level: form_of(sample), **dict(sample.groups)}


def _plain(text: str) -> str:
    return text.strip().rstrip(".").lower()
