"""Multiple choice: from an answer's text to a letter.

The rules are MMMU's (https://github.com/MMMU-Benchmark/MMMU, `parse_multi_choice_response`). Where they would guess at
random, a few more forms are read, and what still has no letter is counted; the letter that stands for it is the same
in every run.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from components.errors import InputError
from components.tasks.kind import Answer
from components.tasks.kinds.questions import Constant, QuestionKind, Reading, read_questions
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task
from components.tasks.template import LETTERS, check_fields, lettered, option_lines

_PUNCTUATION = ",.!?;:'"
# MMMU looks for an option's text only in answers of more words than this.
_SHORT_ANSWER_WORDS = 5


class MultipleChoice(QuestionKind):
    """Questions with lettered options, in JSON lines: `id`, `image`, `question`, `options`, `answer`, `category`.

    The prompt's `template` takes `{question}` and `{options}`, its `option` `{letter}` and `{text}`; `answer` says whether
    the option's letter or its text is asked for: then `option` may do without `{letter}`.
    """

    lead: ClassVar[str] = (
        "Green: the true option; red: a wrong choice of the model. The choice of questions is fixed and favours nothing."
    )
    ground_truth: ClassVar[str] = "JSON lines with `id`, `image`, `question`, `options`, `answer` (a letter)"

    def check(self, task: Task) -> None:
        """Check that the prompt asks the question with its options."""
        super().check(task)
        check_fields("prompt.template", task.prompt.template, ("question", "options"))
        lettered_options = task.prompt.answer == "letter" or "{letter}" in task.prompt.option
        check_fields("prompt.option", task.prompt.option, ("letter", "text") if lettered_options else ("text",))

    def load(self, path: Path) -> list[HeldOutSample]:
        """Read the questions; each must have options."""
        samples = read_questions(path, "a multiple-choice question")
        bare = [sample.id for sample in samples if len(sample.options) < 2]
        if bare:
            raise InputError(
                f"{path}: question {bare[0]} is not a multiple-choice question: it needs two options or more."
            )
        return samples

    def ask(self, task: Task, sample: HeldOutSample) -> str:
        """Return question, options and instruction."""
        options = option_lines(task.prompt.option, sample.options)
        return task.prompt.template.format(question=sample.question, options=options)

    def parse(self, task: Task, sample: HeldOutSample, text: str, seed: int) -> Reading:
        """Read a letter, or the text of an option where the task asks for that."""
        read = read_option_text if task.prompt.answer == "text" else read_choice
        letter = read(text, sample.options)
        return Reading(letter) if letter else Reading(stand_in(sample.options, sample.id, seed), readable=False)

    def mark(self, sample: HeldOutSample, reading: Reading) -> float:
        """Return 1 for the right letter."""
        return float(reading.value == sample.answer)

    def constant(self, samples: Sequence[HeldOutSample]) -> Constant:
        """Return the letter that is right most often."""
        return constant_letter(samples)

    def chance(self, sample: HeldOutSample) -> float | None:
        """Return the share of right ones among random letters."""
        return 1 / len(sample.options)

    def note(self, sample: HeldOutSample, text: str, reading: Reading, mark: float) -> Answer:
        """Return the answer with its letter."""
        return Answer(text=text, letter=reading.value, parsed=reading.readable, correct=mark == 1)

    def explain(self, unparsed: int) -> str:
        """Return how many answers had no letter."""
        return f"{unparsed} answers had no readable choice and count as a fixed arbitrary one."


def read_choice(text: str, options: Sequence[str]) -> str | None:
    """Read the chosen letter from an answer.

    In MMMU's order: `(A)`; a lone `A`; in answers of more than five words an option's text, whatever the case. Of several
    hits the one that begins last counts. Where MMMU finds nothing and guesses: `A)`, and a lone `A` at the end of a line.

    Args:
        text: The answer.
        options: Texts of options A, B, ...

    Returns:
        The letter, or None where there is none.
    """
    letters = LETTERS[: len(options)]
    bare = text
    for mark in _PUNCTUATION:
        bare = bare.strip(mark)
    answer = f" {bare} "
    found = _last(answer, ((letter, f"({letter})") for letter in letters))
    found = found or _last(answer, ((letter, f" {letter} ") for letter in letters))
    if found is None and len(answer.split()) > _SHORT_ANSWER_WORDS:
        texts = zip(letters, options, strict=True)
        found = _last(answer.lower(), ((letter, option.lower()) for letter, option in texts if option))
    if found is not None:
        return found
    answer = f" {' '.join(text.split()).strip(_PUNCTUATION + ' ')} "
    found = _last(answer, ((letter, f" {letter}) ") for letter in letters))
    return found or _last(answer, ((letter, f" {letter} ") for letter in letters))


def read_option_text(text: str, options: Sequence[str]) -> str | None:
    """Read the chosen letter from an answer that gives the option's text.

    The whole answer must be an option's text, whatever the case and the punctuation around it. Anything else is
    unreadable: a text that merely contains an option may deny it.

    Args:
        text: The answer.
        options: Texts of options A, B, ...

    Returns:
        The letter, or None where there is none.
    """
    answer = _bare(text)
    letters = (letter for letter, option in lettered(options) if answer and answer == _bare(option))
    return next(letters, None)


def stand_in(options: Sequence[str], sample_id: str, seed: int) -> str:
    """Return the letter that stands for an unreadable answer: any of them, and the same one in every run."""
    digest = hashlib.sha256(f"{seed}/{sample_id}".encode()).digest()
    return LETTERS[int.from_bytes(digest[:8]) % len(options)]


def constant_letter(samples: Sequence[HeldOutSample]) -> Constant:
    """Return the letter that is right most often, the first of equals; samples without options have no right letter."""
    answers = [sample.answer if sample.options else "" for sample in samples]
    letters = sorted(set(answers) - {""}) or ["A"]
    best = max(letters, key=answers.count)
    return Constant(best, Reading(best))


def _bare(text: str) -> str:
    return " ".join(text.split()).strip(_PUNCTUATION + " ").casefold()


def _last(answer: str, patterns: Iterable[tuple[str, str]]) -> str | None:
    """Return the letter whose pattern begins last in the answer, the first of equals."""
    hits = [(place, letter) for letter, pattern in patterns if (place := answer.rfind(pattern)) >= 0]
    return max(hits, key=lambda hit: hit[0])[1] if hits else None
