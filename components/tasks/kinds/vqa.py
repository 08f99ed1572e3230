"""Open questions that ten people answered: VQAv2 and TextVQA.

The rule is that of the VQA challenge (https://visualqa.org/evaluation.html): an answer counts in full when at least
three people gave it; averaged over the ten sets of nine people that leave one out.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from components.errors import InputError
from components.metrics.partly_right import VQA_ACCURACY
from components.tasks.kind import Answer, in_points
from components.tasks.kinds.open_questions import OpenQuestions
from components.tasks.kinds.questions import Constant, Reading, read_questions
from components.tasks.kinds.vqa_answers import normalise_textvqa, normalise_vqa, one_line
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task


class Vqa(OpenQuestions):
    """Questions in JSON lines: `id`, `image`, `question`, `answers` (of ten people), `category`.

    The prompt's `template` takes `{question}`, and `{hint}` if it likes. An answer is normalised as LLaVA-1.5 hands answers
    in, and then judged as the challenge's program does: where all people gave the very same answer, letter by letter;
    elsewhere after normalising both sides. An empty answer is none of anybody's.
    """

    version: ClassVar[int] = 2
    metrics: ClassVar[tuple[str, ...]] = ("vqa_accuracy",)
    level: ClassVar[str] = "kind of answer"
    lead: ClassVar[str] = (
        "Bold: the model's answer and its soft accuracy. Below: what people answered. The choice is fixed and favours nothing."
    )
    ground_truth: ClassVar[str] = "JSON lines with `id`, `image`, `question`, `answers` (of each person)"

    def load(self, path: Path) -> list[HeldOutSample]:
        """Read the questions; each must have answers."""
        samples = read_questions(path, "an open question")
        bare = [sample.id for sample in samples if not sample.references]
        if bare:
            raise InputError(f"{path}: question {bare[0]} has no `answers`.")
        return samples

    def parse(self, task: Task, sample: HeldOutSample, text: str, seed: int) -> Reading:
        """Normalise the answer; what is handed in is its only candidate, an empty answer has none."""
        return self.read(text)

    def read(self, text: str) -> Reading:
        """Return what an answer is compared as."""
        given = normalise_textvqa(text)
        return Reading(normalise_vqa(given), candidates=(given,) if text.strip() else ())

    def given(self, sample: HeldOutSample) -> tuple[Counter[str], bool]:
        """Return what people answered, as it is compared, and whether with what is handed in rather than its normal form."""
        plain = [one_line(answer) for answer in sample.references]
        if len(set(plain)) == 1:
            return Counter(plain), True
        return Counter(normalise_vqa(answer) for answer in plain), False

    def mark(self, sample: HeldOutSample, reading: Reading) -> float:
        """Return the soft accuracy."""
        if not reading.candidates:
            return 0.0
        given, as_handed_in = self.given(sample)
        said = str(reading.candidates[0]) if as_handed_in else reading.value
        return _soft_accuracy(given[said], given.total())

    def constant(self, samples: Sequence[HeldOutSample]) -> Constant:
        """Return the answer with the highest accuracy over all questions, the first of equals."""
        worth: dict[bool, dict[str, float]] = {True: defaultdict(float), False: defaultdict(float)}
        for sample in samples:
            given, as_handed_in = self.given(sample)
            for answer, times in given.items():
                worth[as_handed_in][answer] += _soft_accuracy(times, given.total())
        readings = {answer: self.read(answer) for answer in sorted({*worth[True], *worth[False]}) if answer}
        totals = {
            answer: worth[True].get(str(reading.candidates[0]), 0.0) + worth[False].get(reading.value, 0.0)
            for answer, reading in readings.items()
            if reading.candidates
        }
        best = max(totals, key=totals.__getitem__, default="")
        return Constant(best, self.read(best))

    def note(self, sample: HeldOutSample, text: str, reading: Reading, mark: float) -> Answer:
        """Return the answer with its soft accuracy."""
        return Answer(text=text, read=reading.value, score=in_points(mark))

    def explain(self, task: Task, unparsed: int) -> str:
        """Return the rule."""
        return (
            "Soft accuracy of the VQA challenge: full when three of ten people gave the answer, after normalising both; where "
            "all gave the same, theirs is not normalised, as in the challenge's program."
        )


class TextVqa(Vqa):
    """As VQAv2, but answers are normalised in TextVQA's way, whether people agree or not; `hint` has the OCR's words."""

    version: ClassVar[int] = 1

    def read(self, text: str) -> Reading:
        """Return what an answer is compared as."""
        given = normalise_textvqa(text)
        return Reading(given, candidates=(given,) if text.strip() else ())

    def given(self, sample: HeldOutSample) -> tuple[Counter[str], bool]:
        """Return what people answered, in its normal form."""
        return Counter(normalise_textvqa(answer) for answer in sample.references), False

    def explain(self, task: Task, unparsed: int) -> str:
        """Return the rule."""
        return (
            "Soft accuracy of the VQA challenge: full when three of ten people gave the answer, after TextVQA's processor "
            "normalised both."
        )


def _soft_accuracy(matches: int, people: int) -> float:
    return VQA_ACCURACY.per_sample(matches, people)[0]
