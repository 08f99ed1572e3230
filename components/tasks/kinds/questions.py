"""Kinds whose answers are read and marked one by one; each says how, everything else is here."""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.errors import InputError, first_problem
from components.metrics.metric import Metric, Row
from components.metrics.registry import find_metric
from components.tasks.kind import CHANCE, CONSTANT, MODEL, Answer, Examination, Findings, Kind
from components.tasks.picture_marks import marked_pictures
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task
from components.tasks.template import LETTERS, check_fields


@dataclass(frozen=True)
class Reading:
    """What was read from an answer.

    Attributes:
        value: What is marked: a letter, a normalised text.
        readable: False where the value only stands in for what could not be read.
        candidates: Everything that the answer may mean, where that is more than one text or number.
    """

    value: str
    readable: bool = True
    candidates: tuple[str | float, ...] = ()


@dataclass(frozen=True)
class Constant:
    """One answer for all samples.

    Attributes:
        text: The answer.
        reading: What is read from it.
    """

    text: str
    reading: Reading


class QuestionRow(BaseModel):
    """A line of a file of questions; fields that it does not name are left alone.

    Attributes:
        id: Unique in the file.
        image: The picture.
        images: All pictures, where there are several; `image` is the first.
        question: The question. `<image 2>` in it, or in an option, is where the second picture stands, where a task shows
            pictures in place.
        options: Texts of options A, B, ...; none for an open question.
        answer: The right letter, where there are options.
        answers: Accepted answers of an open question; with repetitions, where several people were asked.
        category: Group that is scored on its own.
        groups: More of them: level to group.
        hint: What stands beside the question.
        unit: Questions that are one where a metric counts groups.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: str
    image: str
    images: tuple[str, ...] = ()
    question: str
    options: tuple[str, ...] = Field(default=(), max_length=len(LETTERS))
    answer: str = ""
    answers: tuple[str, ...] = ()
    category: str = ""
    groups: dict[str, str] = {}
    hint: str = ""
    unit: str = ""

    @model_validator(mode="after")
    def _check(self) -> "QuestionRow":
        letters = LETTERS[: len(self.options)]
        if self.options and self.answer not in set(letters):
            raise ValueError(f"answer {self.answer!r} is not one of the letters {letters}")
        pictures = len(self.images) or 1
        unknown = {
            n for text in (self.question, *self.options) for n in marked_pictures(text) if not 1 <= n <= pictures
        }
        if unknown:
            raise ValueError(f"the text has a mark <image {min(unknown)}>, but the pictures are {pictures}")
        return self

    def sample(self) -> HeldOutSample:
        """Return the sample of this line."""
        return HeldOutSample(
            self.id,
            self.image,
            references=self.answers,
            question=self.question,
            options=self.options,
            answer=self.answer,
            category=self.category,
            groups=tuple(self.groups.items()),
            hint=self.hint,
            unit=self.unit,
            images=self.images,
        )


def read_questions(path: Path, what: str) -> list[HeldOutSample]:
    """Read a file of JSON lines in the layout of `QuestionRow`.

    Args:
        path: The file.
        what: What a line is, for errors.

    Raises:
        InputError: A line has another layout.
    """
    samples = []
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                samples.append(QuestionRow.model_validate(json.loads(line)).sample())
            except (ValidationError, json.JSONDecodeError) as error:
                reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
                raise InputError(f"{path}, line {number} is not {what} ({reason}).") from error
    return samples


class QuestionKind(Kind):
    """Questions with answers that are read and marked one by one.

    Metrics that are means of marks, also over groups of questions, need nothing more; for others a kind says in `rows`
    what an answer adds.

    Attributes:
        level: What the samples' categories are.
    """

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    level: ClassVar[str] = "kind of question"

    def check(self, task: Task) -> None:
        """Check that the prompt can ask something; which fields it takes is for the kind to check."""
        if task.prompt.format == "plain":
            raise ValueError("prompt: the plain format shows the picture alone and can ask nothing; use instruct")
        check_fields("prompt.hint", task.prompt.hint, ("hint",))

    def put(self, task: Task, sample: HeldOutSample, **fields: str) -> str:
        """Return the prompt's template with a sample's question, hint and whatever else it takes."""
        hint = task.prompt.hint.format(hint=sample.hint) if sample.hint else ""
        return task.prompt.template.format(question=sample.question, hint=hint, **fields)

    @abstractmethod
    def parse(self, task: Task, sample: HeldOutSample, text: str, seed: int) -> Reading:
        """Read an answer."""

    @abstractmethod
    def mark(self, sample: HeldOutSample, reading: Reading) -> float:
        """Return how right a reading is, 0..1."""

    @abstractmethod
    def constant(self, samples: Sequence[HeldOutSample]) -> Constant:
        """Return the one answer that is marked best when it is given to every question: chosen with the truth in sight."""

    def rows(
        self,
        metric: Metric[...],
        samples: Sequence[HeldOutSample],
        readings: Sequence[Reading],
        marks: Sequence[float],
    ) -> Sequence[Row]:
        """Return what every answer adds to a metric, see its `per_sample`; by default its mark.

        Raises:
            NotImplementedError: The metric is no mean of marks, and the kind does not say what an answer adds to it.
            ValueError: Marks of a metric of right and wrong are something between.
        """
        if metric.form == "counts" or metric.direction == "neither":
            raise NotImplementedError(f"{type(self).__name__} must say in `rows` what an answer adds to {metric.name}")
        if metric.form == "share" and not set(marks) <= {0.0, 1.0}:
            raise ValueError(
                f"{metric.name} is of answers that are right or wrong, but {type(self).__name__} marks parts"
            )
        return [(mark, 1.0) for mark in marks]

    def unit(self, sample: HeldOutSample) -> str:
        """Return the group of a sample, for metrics that count a group as one; where it names none, its picture."""
        return sample.unit or sample.image

    def resampled_by_unit(self, metric: Metric[...]) -> bool:
        """Tell whether what is resampled are units: where their samples count as one, or what they add belongs together."""
        return metric.pooling == "all"

    def chance(self, sample: HeldOutSample) -> float | None:
        """Return the expected mark of guessing; None where nothing can be guessed."""
        return None

    def groups(self, sample: HeldOutSample) -> Mapping[str, str]:
        """Return level to the sample's group."""
        return {self.level: sample.category, **dict(sample.groups)}

    def listed(self, samples: Sequence[HeldOutSample]) -> dict[str, list[str]]:
        """Return what a reader may want to know by name: heading to ids."""
        return {}

    def note(self, sample: HeldOutSample, text: str, reading: Reading, mark: float) -> Answer:
        """Return what is shown of an answer."""
        return Answer(text=text, read=reading.value, parsed=reading.readable, correct=mark == 1)

    def explain(self, task: Task, unparsed: int) -> str:
        """Return how answers were read and marked, for the page."""
        return ""

    def examine(self, examination: Examination) -> Findings:
        """Mark every answer."""
        from components.metrics.statistic import Statistic

        samples, task = examination.samples, examination.task
        readings = {
            control: [
                self.parse(task, sample, text, examination.seed) for sample, text in zip(samples, texts, strict=True)
            ]
            for control, texts in examination.texts.items()
        }
        marks = {
            control: [self.mark(sample, reading) for sample, reading in zip(samples, found, strict=True)]
            for control, found in readings.items()
        }
        answers = {
            control: [
                self.note(sample, text, reading, mark)
                for sample, text, reading, mark in zip(
                    samples, examination.texts[control], readings[control], marks[control], strict=True
                )
            ]
            for control in marks
        }
        constant = self.constant(samples)
        readings[CONSTANT] = [constant.reading] * len(samples)
        marks[CONSTANT] = [self.mark(sample, constant.reading) for sample in samples]
        metrics = [find_metric(name) for name in task.metrics]
        units = [self.unit(sample) for sample in samples]
        statistics = {
            control: {
                metric.name: Statistic.of(
                    metric,
                    self.rows(metric, samples, readings[control], found),
                    units if self.resampled_by_unit(metric) else None,
                )
                for metric in metrics
            }
            for control, found in marks.items()
        }
        guesses = [self.chance(sample) for sample in samples]
        known = [guess for guess in guesses if guess is not None]
        if len(known) == len(samples):
            guessed = {
                metric.name: Statistic.of(metric, [(guess, 1.0) for guess in known])
                for metric in metrics
                if _is_mean_mark(metric)
            }
            if task.headline in guessed:
                statistics[CHANCE] = guessed
        unparsed = {
            control: sum(not reading.readable for reading in readings[control]) for control in examination.texts
        }
        grouped = [self.groups(sample) for sample in samples]
        levels = dict.fromkeys(level for groups in grouped for level in groups)
        return Findings(
            statistics=statistics,
            answers=answers,
            groups={level: [groups.get(level, "") for groups in grouped] for level in levels},
            constant=constant.text,
            unparsed=unparsed,
            listed=self.listed(samples),
            method=self.explain(task, unparsed[MODEL]),
        )


def _is_mean_mark(metric: Metric[...]) -> bool:
    """Tell whether a metric is the mean of how right answers are: what guessing scores is known of these alone."""
    return metric.form != "counts" and metric.pooling == "sum" and metric.direction == "higher"


def several_pictures(samples: Sequence[HeldOutSample]) -> dict[str, list[str]]:
    """List the questions that are about several pictures, of which only the first is shown."""
    names = [sample.id for sample in samples if len(sample.images) > 1 and sample.pictures == (sample.image,)]
    return {"Questions about several pictures, of which the first is shown": names} if names else {}
