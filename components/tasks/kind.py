"""What a kind of task is: one object that reads, asks, parses and scores.

A task (`task.py`) is data; its `kind` names the object (`registry.py`) that gives the data a meaning. Nothing
else in the project knows one kind from another. Light on imports: scoring libraries are imported when something is scored.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from components.tasks.sample import HeldOutSample
from components.tasks.task import Task

if TYPE_CHECKING:
    from components.metrics.statistic import Statistic

MODEL = "none"
"""Control under which the model sees every sample's own picture."""

CONSTANT = "constant"
CHANCE = "chance"
POINTS = 100.0


def in_points(value: float) -> float:
    """Return a value in points, rounded to what is worth storing."""
    return round(POINTS * float(value), 4)


class Answer(BaseModel):
    """What the model said under one control, and what became of it.

    Attributes:
        text: The prediction.
        read: What was read from it, where that is another text: the letter's option, the normalised answer.
        letter: The letter read from it, where the sample has options.
        parsed: False where the letter only stands in for an unreadable answer.
        correct: Whether it is right; None where an answer can be right in part.
        score: Its own score in points, where right or wrong says too little (CIDEr, soft accuracy).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    read: str = ""
    letter: str = ""
    parsed: bool = True
    correct: bool | None = None
    score: float | None = None


@dataclass(frozen=True)
class Examination:
    """What is to be scored.

    Attributes:
        task: The task.
        samples: Ground truth.
        texts: `MODEL` and every generated control to the predictions, in the samples' order.
        raw: Raw dataset folder.
        seed: Decides whatever is drawn, such as the letter that stands for an unreadable answer.
        constant_candidates: Most training captions that are tried as the best constant caption.
        resources: What statistics go on using is entered here; closed when they have been resampled.
    """

    task: Task
    samples: Sequence[HeldOutSample]
    texts: Mapping[str, Sequence[str]]
    raw: Path
    seed: int = 0
    constant_candidates: int = 1000
    resources: ExitStack = field(default_factory=ExitStack)


@dataclass
class Findings:
    """What a kind of task found in predictions, before intervals.

    Attributes:
        statistics: `MODEL` and every control (generated ones, `CONSTANT`, `CHANCE`) to metric to statistic; each has the
            headline.
        answers: `MODEL` and every generated control to what became of each answer.
        groups: Level ("subject") to the group of every sample, which get a headline score each; empty strings belong to none.
        constant: The best constant answer; empty for none.
        unparsed: `MODEL` and every generated control to the number of unreadable answers.
        tokenizer: What cut texts into words, where that matters.
        listed: What a reader may want to know by name: heading to ids.
        notes: What a reader must know.
        method: Sentences on how it was scored, for the page.
    """

    statistics: "dict[str, dict[str, Statistic]]"
    answers: dict[str, list[Answer]]
    groups: dict[str, list[str]] = field(default_factory=dict)
    constant: str = ""
    unparsed: dict[str, int] = field(default_factory=dict)
    tokenizer: str = ""
    listed: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    method: str = ""


class Kind(ABC):
    """A kind of task. Stateless: one object serves all tasks of its kind.

    Attributes:
        version: Raised whenever the same predictions would be read or marked otherwise; part of a task's identity.
        metrics: Names of the metrics that it can compute; see `components/metrics/registry.py`.
        readings: Ways in which it can read answers, the usual one first; none where there is one only.
        noun: What a sample is called, in the plural.
        lead: Says above the shown samples how to read them.
        ground_truth: Layout of the file of ground truth, in a line.
    """

    version: ClassVar[int] = 1
    metrics: ClassVar[tuple[str, ...]]
    readings: ClassVar[tuple[str, ...]] = ()
    noun: ClassVar[str] = "questions"
    lead: ClassVar[str] = "The choice of samples is fixed and favours nothing."
    ground_truth: ClassVar[str] = ""

    @abstractmethod
    def check(self, task: Task) -> None:
        """Check that a task's prompt fits.

        Raises:
            ValueError: What is wrong with it.
        """

    @abstractmethod
    def load(self, path: Path) -> list[HeldOutSample]:
        """Read ground truth; prompts are filled in later.

        Raises:
            InputError: The file has another layout.
        """

    @abstractmethod
    def ask(self, task: Task, sample: HeldOutSample) -> str:
        """Return the human turn; empty to show the picture alone."""

    @abstractmethod
    def examine(self, examination: Examination) -> Findings:
        """Parse and score predictions, beside the best constant answer."""
