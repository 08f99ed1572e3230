"""MMMU: multiple-choice and open questions of thirty subjects in one task.

The rules are those of the benchmark's own evaluation (https://github.com/MMMU-Benchmark/MMMU, `eval/eval_utils.py`);
the answers that it would guess at random are counted, and get a letter that is the same in every run.
"""

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from components.tasks.kinds.choice_or_open import ChoiceOrOpen, form_of
from components.tasks.kinds.multiple_choice import MultipleChoice
from components.tasks.kinds.questions import QuestionKind, Reading, several_pictures
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task
from components.tasks.template import check_fields

DISCIPLINES: Mapping[str, tuple[str, ...]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
_DISCIPLINE_OF = {subject: discipline for discipline, subjects in DISCIPLINES.items() for subject in subjects}

_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = frozenset(":,.!?;'")
_WITH_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_PLAIN = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")


class Mmmu(ChoiceOrOpen):
    """Questions in JSON lines as for multiple choice, and open ones with `answers` instead of `options` and `answer`.

    The prompt's `template` asks those with options, its `open_template` (with `{question}`) the open ones. A question's
    category is its subject.
    """

    what: ClassVar[str] = "a question of MMMU"
    readings: ClassVar[tuple[str, ...]] = ("mmmu", "plain")
    level: ClassVar[str] = "subject"

    def check(self, task: Task) -> None:
        """Check that the prompt asks both sorts of questions, for the letter."""
        if task.prompt.answer != "letter":
            raise ValueError("prompt.answer: MMMU's questions are answered with the letter")
        super().check(task)
        check_fields("prompt.open_template", task.prompt.open_template, ("question",))

    def ask(self, task: Task, sample: HeldOutSample) -> str:
        """Return the question, with its options if it has any, and the instruction."""
        return (
            super().ask(task, sample) if sample.options else task.prompt.open_template.format(question=sample.question)
        )

    def parse_open(self, text: str) -> Reading:
        """Read everything that an open answer may mean."""
        candidates = read_open_answer(text)
        return Reading(", ".join(map(str, candidates)), candidates=candidates)

    def mark_open(self, sample: HeldOutSample, reading: Reading) -> float:
        """Return 1 for an answer that holds an accepted one."""
        return float(is_accepted(reading.candidates, sample.references))

    def groups(self, sample: HeldOutSample) -> Mapping[str, str]:
        """Return the discipline, the subject and the sort of question."""
        return {**_subject(sample), "form": form_of(sample)}

    def listed(self, samples: Sequence[HeldOutSample]) -> dict[str, list[str]]:
        """List the questions about several pictures."""
        return several_pictures(samples)


class MmmuPro(MultipleChoice):
    """MMMU-Pro: questions with up to ten options, of MMMU's subjects; where they are in the picture, the prompt names none."""

    version: ClassVar[int] = 1
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    readings: ClassVar[tuple[str, ...]] = ("mmmu_pro", "mmmu", "plain")
    level: ClassVar[str] = "subject"

    def check(self, task: Task) -> None:
        """Check that the prompt asks for the letter, with question and options or without both."""
        if task.prompt.answer != "letter":
            raise ValueError("prompt.answer: MMMU-Pro's questions are answered with the letter")
        if "{" in task.prompt.template:
            super().check(task)
        else:
            QuestionKind.check(self, task)

    def groups(self, sample: HeldOutSample) -> Mapping[str, str]:
        """Return the discipline and the subject."""
        return {**_subject(sample), **dict(sample.groups)}

    def listed(self, samples: Sequence[HeldOutSample]) -> dict[str, list[str]]:
        """List the questions about several pictures."""
        return several_pictures(samples)


def _subject(sample: HeldOutSample) -> dict[str, str]:
    return {
        "discipline": _DISCIPLINE_OF.get(sample.category, ""),
        "subject": sample.category.replace("_", " "),
    }


def read_open_answer(text: str) -> tuple[str | float, ...]:
    """Return everything that an open answer may mean, normalised and each once.

    Of every line, the shortest tail after a word such as "is" or "answer" (in the last one also after "="); of an answer
    without any such word, all of it; and the numbers in these.
    """
    # The benchmark also splits at a full stop before a capital letter, but lowers the text first: it never does.
    lines = text.strip().strip(".").lower().split("\n")
    tails = []
    for number, line in enumerate(lines, start=1):
        keys = (*_KEYS, "=") if number == len(lines) else _KEYS
        shortest = ""
        for key in keys:  # in the benchmark's order: a word at the very end takes the tails before it away
            if key in line and (not shortest or len(line.split(key)[-1].strip()) < len(shortest)):
                shortest = line.split(key)[-1].strip()
        if shortest and shortest not in _TRIVIAL:
            tails.append(shortest)
    tails = tails or [text.strip().strip(".").lower()]
    numbers = [
        number for tail in tails for pattern in (_WITH_COMMAS, _SCIENTIFIC, _PLAIN) for number in pattern.findall(tail)
    ]
    return tuple(dict.fromkeys(value for candidate in (*tails, *numbers) for value in normalise(candidate)))


def is_accepted(candidates: Sequence[str | float], accepted: Sequence[str]) -> bool:
    """Tell whether a candidate contains an accepted text, or is an accepted number."""
    known = [value for text in accepted for value in normalise(text)]
    texts = [value for value in known if isinstance(value, str)]
    return any(
        any(text in candidate for text in texts) if isinstance(candidate, str) else candidate in known
        for candidate in candidates
    )


def normalise(text: str) -> list[str | float]:
    """Return a number rounded to two places, or lower-case text; a single character only beside a blank."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]
