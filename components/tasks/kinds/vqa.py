"""Open questions that ten people answered: VQAv2 and TextVQA.

The rule is that of the VQA challenge (https://visualqa.org/evaluation.html): an answer counts in full when at least
three people gave it; averaged over the ten sets of nine people that leave one out.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from components.errors import InputError
from components.metrics.partly_right import VQA_ACCURACY
from components.tasks.kind import Answer, in_points
from components.tasks.kinds.contractions import CONTRACTIONS
from components.tasks.kinds.questions import Constant, QuestionKind, Reading, read_questions
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task
from components.tasks.template import check_fields

_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,+\d")
_FULL_STOP = re.compile(r"\.(?!\d)")


class Vqa(QuestionKind):
    """Questions in JSON lines: `id`, `image`, `question`, `answers` (of ten people), `category`.

    The prompt's `template` takes `{question}`.
    """

    metrics: ClassVar[tuple[str, ...]] = ("vqa_accuracy",)
    level: ClassVar[str] = "kind of answer"
    lead: ClassVar[str] = (
        "Bold: the model's answer and its soft accuracy. Below: what people answered. The choice is fixed and favours nothing."
    )
    ground_truth: ClassVar[str] = "JSON lines with `id`, `image`, `question`, `answers` (of each person)"

    def check(self, task: Task) -> None:
        """Check that the prompt asks the question."""
        super().check(task)
        check_fields("prompt.template", task.prompt.template, ("question",))

    def load(self, path: Path) -> list[HeldOutSample]:
        """Read the questions; each must have answers."""
        samples = read_questions(path, "an open question")
        bare = [sample.id for sample in samples if not sample.references]
        if bare:
            raise InputError(f"{path}: question {bare[0]} has no `answers`.")
        return samples

    def ask(self, task: Task, sample: HeldOutSample) -> str:
        """Return the question and the instruction."""
        return task.prompt.template.format(question=sample.question)

    def parse(self, task: Task, sample: HeldOutSample, text: str, seed: int) -> Reading:
        """Normalise the answer."""
        return Reading(normalise(text))

    def mark(self, sample: HeldOutSample, reading: Reading) -> float:
        """Return the soft accuracy."""
        given = [normalise(answer) for answer in sample.references]
        return _soft_accuracy(given.count(reading.value), len(given))

    def constant(self, samples: Sequence[HeldOutSample]) -> Constant:
        """Return the answer with the highest accuracy over all questions, the first of equals."""
        counts = [Counter(normalise(answer) for answer in sample.references) for sample in samples]
        people = [len(sample.references) for sample in samples]
        totals: dict[str, float] = {}
        for count, number in zip(counts, people, strict=True):
            for answer, times in count.items():
                totals[answer] = totals.get(answer, 0.0) + _soft_accuracy(times, number)
        best = max(sorted(totals), key=totals.__getitem__)
        return Constant(best, Reading(best))

    def note(self, sample: HeldOutSample, text: str, reading: Reading, mark: float) -> Answer:
        """Return the answer with its soft accuracy."""
        return Answer(text=text, read=reading.value, score=in_points(mark))

    def explain(self, unparsed: int) -> str:
        """Return the rule."""
        return (
            "Soft accuracy of the VQA challenge: full when three of ten people gave the answer, after normalising both."
        )


def _soft_accuracy(matches: int, people: int) -> float:
    return VQA_ACCURACY.per_sample(matches, people)[0]


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """Return an answer as the VQA challenge compares it.

    Punctuation is taken out where a blank is beside it somewhere (or the answer holds a number with commas) and replaced
    by a blank elsewhere; full stops go unless a digit follows; then lower case, digits for the words up to ten, no
    articles, and the apostrophe in contractions that lack it.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    bare = text
    has_commas = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if beside_blank or has_commas else " ")
    bare = _FULL_STOP.sub("", bare)
    words = (_NUMBERS.get(word, word) for word in bare.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
