"""Open questions: what those that ten people answered and those with few accepted answers have in common."""

from components.tasks.kinds.questions import QuestionKind
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task
from components.tasks.template import check_fields


class OpenQuestions(QuestionKind):
    """The prompt's `template` takes `{question}`, and `{hint}` if it likes."""

    def check(self, task: Task) -> None:
        """Check that the prompt asks the question."""
        super().check(task)
        check_fields("prompt.template", task.prompt.template, ("question",), optional=("hint",))

    def ask(self, task: Task, sample: HeldOutSample) -> str:
        """Return the question and the instruction."""
        return self.put(task, sample)
