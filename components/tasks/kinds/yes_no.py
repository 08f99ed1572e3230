"""Questions whose answer is yes or no: POPE and MME."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from components.errors import InputError
from components.metrics.metric import Metric, Row
from components.metrics.mme import PART_OF
from components.tasks.kinds.questions import Constant, QuestionKind, Reading, read_questions
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task
from components.tasks.template import check_fields

_YES, _NO = "yes", "no"
_POPE_NO = frozenset({"No", "not", "no"})
_A_YES = re.compile(r"\byes\b", re.IGNORECASE)
_MME_LETTERS = 4


class YesNo(QuestionKind):
    """Is it there? Questions in JSON lines with one of `answers`, "yes" or "no"; the category is the split.

    An answer is read as in the programs of POPE and LLaVA: no where its first sentence has the word "No", "no" or "not",
    else yes. An empty answer is neither, and counts as the wrong one.
    """

    metrics: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "group_accuracy",
        "f1",
        "macro_f1",
        "precision",
        "recall",
        "yes_ratio",
    )
    level: ClassVar[str] = "split"
    ground_truth: ClassVar[str] = (
        'JSON lines with `id`, `image`, `question`, `answers` (one, "yes" or "no"), `category`'
    )

    def check(self, task: Task) -> None:
        """Check that the prompt asks the question."""
        super().check(task)
        check_fields("prompt.template", task.prompt.template, ("question",), optional=("hint",))

    def load(self, path: Path) -> list[HeldOutSample]:
        """Read the questions; each has yes or no for an answer."""
        samples = read_questions(path, "a question of yes or no")
        for sample in samples:
            if sample.references not in ((_YES,), (_NO,)):
                raise InputError(
                    f'{path}: `answers` of question {sample.id} are {list(sample.references)}: expected ["yes"] or ["no"].'
                )
        return samples

    def ask(self, task: Task, sample: HeldOutSample) -> str:
        """Return the question and the instruction."""
        return self.put(task, sample)

    def parse(self, task: Task, sample: HeldOutSample, text: str, seed: int) -> Reading:
        """Read yes or no; what has neither word is counted, and stands for yes as in POPE's program."""
        if not text.strip():
            return Reading("", readable=False)
        words = text.partition(".")[0].replace(",", "").split(" ")
        denied = not _POPE_NO.isdisjoint(words)
        return Reading(_NO if denied else _YES, readable=denied or _A_YES.search(text) is not None)

    def mark(self, sample: HeldOutSample, reading: Reading) -> float:
        """Return 1 for the right one."""
        return float(reading.value == sample.references[0])

    def constant(self, samples: Sequence[HeldOutSample]) -> Constant:
        """Return yes or no, whichever is right more often; yes where it is the same, since only yes is found."""
        right = Counter(sample.references[0] for sample in samples)
        best = _YES if right[_YES] >= right[_NO] else _NO
        return Constant(best, Reading(best))

    def chance(self, sample: HeldOutSample) -> float | None:
        """Return what tossing a coin is worth."""
        return 0.5

    def rows(
        self, metric: Metric[...], samples: Sequence[HeldOutSample], readings: Sequence[Reading], marks: Sequence[float]
    ) -> Sequence[Row]:
        """Return what every answer adds; an empty one counts as the wrong answer."""
        true = [sample.references[0] == _YES for sample in samples]
        said = [
            reading.value == _YES if reading.value else not truth for reading, truth in zip(readings, true, strict=True)
        ]
        if metric.name == "yes_ratio":
            return [metric.per_sample(reading.value == _YES) for reading in readings]
        if metric.name in ("f1", "precision", "recall"):
            return [metric.per_sample(*pair) for pair in zip(said, true, strict=True)]
        if metric.name == "macro_f1":
            splits = sorted({sample.category for sample in samples})
            return [
                metric.per_sample(yes, truth, splits.index(sample.category), len(splits))
                for yes, truth, sample in zip(said, true, samples, strict=True)
            ]
        return super().rows(metric, samples, readings, marks)


class Mme(YesNo):
    """MME: two questions about each picture; the category is one of its fourteen subtasks.

    An answer is read as in its program, by its first four letters: yes, else no, else neither, which is wrong.
    """

    metrics: ClassVar[tuple[str, ...]] = (
        *YesNo.metrics,
        "mme_total",
        "mme_perception",
        "mme_cognition",
    )
    level: ClassVar[str] = "subtask"

    def load(self, path: Path) -> list[HeldOutSample]:
        """Read the questions; each belongs to a subtask."""
        samples = super().load(path)
        unknown = [sample for sample in samples if sample.category not in PART_OF]
        if unknown:
            raise InputError(
                f"{path}: `category` of question {unknown[0].id} is {unknown[0].category!r}, which is no subtask of MME: "
                f"{', '.join(PART_OF)}."
            )
        return samples

    def parse(self, task: Task, sample: HeldOutSample, text: str, seed: int) -> Reading:
        """Read yes or no."""
        start = text.lower()[:_MME_LETTERS]
        value = next((word for word in (_YES, _NO) if word in start), "")
        return Reading(value, readable=bool(value))

    def groups(self, sample: HeldOutSample) -> Mapping[str, str]:
        """Return the part and the subtask."""
        return {"part": PART_OF[sample.category], **super().groups(sample)}

    def resampled_by_unit(self, metric: Metric[...]) -> bool:
        """Tell whether pictures are resampled: for MME's own scores both answers about one belong together."""
        return metric.name.startswith("mme_") or super().resampled_by_unit(metric)

    def rows(
        self, metric: Metric[...], samples: Sequence[HeldOutSample], readings: Sequence[Reading], marks: Sequence[float]
    ) -> Sequence[Row]:
        """Return what every answer adds."""
        if not metric.name.startswith("mme_"):
            return super().rows(metric, samples, readings, marks)
        part = {"mme_perception": "Perception", "mme_cognition": "Cognition"}.get(metric.name)
        units = [self.unit(sample) for sample in samples]
        sizes = Counter(units)
        missed = {unit for unit, mark in zip(units, marks, strict=True) if mark < 1}
        return [
            metric.per_sample(
                mark, unit not in missed, sizes[unit], sample.category, part in (None, PART_OF[sample.category])
            )
            for sample, unit, mark in zip(samples, units, marks, strict=True)
        ]
