"""Open questions with few accepted answers: ChartQA, DocVQA, InfographicVQA, GQA, OCRBench."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from components.errors import InputError
from components.metrics.partly_right import ANLS
from components.metrics.right_or_wrong import RELAXED_ACCURACY
from components.tasks.kind import Answer, in_points
from components.tasks.kinds.open_questions import OpenQuestions
from components.tasks.kinds.questions import Constant, Reading, read_questions
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task

_TRIED = 10  # frequent answers that may be the best constant one


class ShortAnswer(OpenQuestions):
    """Questions in JSON lines: `id`, `image`, `question`, `answers` (accepted ones), `category`.

    The prompt's `template` takes `{question}`, and `{hint}` if it likes. An empty answer is wrong.
    """

    ground_truth: ClassVar[str] = "JSON lines with `id`, `image`, `question`, `answers` (accepted ones)"

    def load(self, path: Path) -> list[HeldOutSample]:
        """Read the questions; each must have an accepted answer that is not empty."""
        samples = read_questions(path, "an open question")
        bare = [sample.id for sample in samples if not any(text.strip() for text in sample.references)]
        if bare:
            raise InputError(f"{path}: question {bare[0]} has no `answers`.")
        return samples

    def parse(self, task: Task, sample: HeldOutSample, text: str, seed: int) -> Reading:
        """Return the answer as it is compared."""
        return Reading(self.plain(text))

    def plain(self, text: str) -> str:
        """Return an answer as it is compared."""
        return text.strip()

    @abstractmethod
    def match(self, answer: str, truth: str, sample: HeldOutSample) -> float:
        """Return how well an answer that is not empty matches an accepted one, 0..1."""

    def mark(self, sample: HeldOutSample, reading: Reading) -> float:
        """Return the best match."""
        if not reading.value:
            return 0.0
        return max(self.match(reading.value, truth, sample) for truth in sample.references if truth.strip())

    def constant(self, samples: Sequence[HeldOutSample]) -> Constant:
        """Return the answer that is marked best when given to every question, of the most frequent ones."""
        given = Counter(self.plain(answer) for sample in samples for answer in set(sample.references))
        tried = sorted(filter(None, given), key=lambda answer: (-given[answer], answer))[:_TRIED]
        best = max(tried, key=lambda answer: sum(self.mark(sample, Reading(answer)) for sample in samples))
        return Constant(best, Reading(best))


class ExactMatch(ShortAnswer):
    """The accepted answer and nothing else, whatever its case, as LLaVA hands GQA's answers in: without a full stop."""

    def plain(self, text: str) -> str:
        """Return the answer in lower case and without full stops at its end."""
        return text.strip().rstrip(".").lower()

    def match(self, answer: str, truth: str, sample: HeldOutSample) -> float:
        """Return whether it is the accepted one, which is in lower case in the dataset."""
        return float(answer == truth)

    def explain(self, task: Task, unparsed: int) -> str:
        """Return the rule."""
        return "An answer counts where it is the accepted one, in lower case and without a full stop."


class RelaxedMatch(ShortAnswer):
    """A number within 5 % of the accepted one, or the accepted text whatever its case: ChartQA."""

    metrics: ClassVar[tuple[str, ...]] = ("relaxed_accuracy",)
    level: ClassVar[str] = "split"

    def match(self, answer: str, truth: str, sample: HeldOutSample) -> float:
        """Return relaxed correctness."""
        return RELAXED_ACCURACY.per_sample(answer, truth)[0]

    def explain(self, task: Task, unparsed: int) -> str:
        """Return the rule."""
        return "A number counts within 5 % of the true one, a text where it is the true one whatever its case."


class SimilarText(ShortAnswer):
    """The similarity to the nearest accepted answer: DocVQA and InfographicVQA."""

    metrics: ClassVar[tuple[str, ...]] = ("anls",)

    def match(self, answer: str, truth: str, sample: HeldOutSample) -> float:
        """Return the similarity, 0 below one half."""
        return ANLS.per_sample(answer, [truth])[0]

    def note(self, sample: HeldOutSample, text: str, reading: Reading, mark: float) -> Answer:
        """Return the answer with its similarity."""
        return Answer(text=text, score=in_points(mark))

    def explain(self, task: Task, unparsed: int) -> str:
        """Return the rule."""
        return "Similarity: 1 - edits / length, to the nearest accepted answer; 0 where it is below one half."


FORMULA = "Handwritten Mathematical Expression Recognition"


class ContainedText(ShortAnswer):
    """An answer that holds an accepted one: OCRBench. Formulas are compared without blanks, everything else without case."""

    level: ClassVar[str] = "kind of task"

    def match(self, answer: str, truth: str, sample: HeldOutSample) -> float:
        """Return whether the accepted text stands in the answer."""
        said, wanted = (text.strip().replace("\n", " ") for text in (answer, truth))
        if sample.category == FORMULA:
            return float(wanted.replace(" ", "") in said.replace(" ", ""))
        return float(wanted.lower() in said.lower())

    def constant(self, samples: Sequence[HeldOutSample]) -> Constant:
        """Return the most frequent accepted answer."""
        given = Counter(text for sample in samples for text in set(sample.references) if text.strip())
        best = min(given, key=lambda text: (-given[text], text))
        return Constant(best, Reading(self.plain(best)))

    def explain(self, task: Task, unparsed: int) -> str:
        """Return the rule."""
        return "An answer counts where an accepted text stands in it."
