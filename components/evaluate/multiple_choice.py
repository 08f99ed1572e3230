"""Multiple choice: from an answer's text to a letter, and from letters to accuracy.

The rules are MMMU's (https://github.com/MMMU-Benchmark/MMMU, `parse_multi_choice_response`), with the `A)` form that
Megatron-LM's example reads too, and without the random guess: an answer without a letter is counted, and the letter
that stands for it is the same in every run.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from components.generate.task import LETTERS

_PUNCTUATION = ",.!?;:'"
# MMMU looks for an option's text only in answers of more words than this.
_SHORT_ANSWER_WORDS = 5


@dataclass(frozen=True)
class Choice:
    """What an answer chose.

    Attributes:
        letter: The letter that is scored.
        parsed: False where the text has no readable choice and `letter` only stands in for one.
    """

    letter: str
    parsed: bool


def parse_choice(text: str, options: Sequence[str], *, sample_id: str, seed: int = 0) -> Choice:
    """Read the chosen option from an answer.

    In this order: `(A)` or `A)`; a lone `A`; in answers of more than five words an option's text, whatever the case.
    Of several hits the last one counts, and of two option texts that end together the longer one.

    Args:
        text: The answer.
        options: Texts of options A, B, ...
        sample_id: With `seed`, decides the letter that stands for an unreadable answer.
        seed: See `sample_id`.
    """
    letters = LETTERS[: len(options)]
    answer = f" {' '.join(text.split()).strip(_PUNCTUATION)} "
    last = _last_hit(
        answer, [(letter, f"({letter})") for letter in letters] + [(letter, f" {letter}) ") for letter in letters]
    )
    last = last or _last_hit(answer, [(letter, f" {letter} ") for letter in letters])
    if last is None and len(answer.split()) > _SHORT_ANSWER_WORDS:
        texts = [(letter, option.lower().strip()) for letter, option in zip(letters, options, strict=True)]
        last = _last_hit(answer.lower(), [(letter, option) for letter, option in texts if option])
    if last is not None:
        return Choice(last, parsed=True)
    return _stand_in(options, sample_id, seed)


def parse_option_text(text: str, options: Sequence[str], *, sample_id: str, seed: int = 0) -> Choice:
    """Read the chosen option from an answer that gives its text.

    The whole answer must be an option's text, whatever the case and the punctuation around it. Anything else is
    unreadable: a text that merely contains an option may deny it.

    Args:
        text: The answer.
        options: Texts of options A, B, ...
        sample_id: With `seed`, decides the letter that stands for an unreadable answer.
        seed: See `sample_id`.
    """
    answer = _bare(text)
    for letter, option in zip(LETTERS, options, strict=False):
        if answer and answer == _bare(option):
            return Choice(letter, parsed=True)
    return _stand_in(options, sample_id, seed)


def best_constant_letter(answers: Sequence[str]) -> str:
    """Return the letter that is right most often, the first of equals: the best answer that never looks."""
    return max(sorted(set(answers)), key=list(answers).count)


def _bare(text: str) -> str:
    return " ".join(text.split()).strip(_PUNCTUATION + " ").casefold()


def _stand_in(options: Sequence[str], sample_id: str, seed: int) -> Choice:
    """Return the letter that stands for an unreadable answer: any of them, and the same one in every run."""
    digest = hashlib.sha256(f"{seed}/{sample_id}".encode()).digest()
    return Choice(LETTERS[int.from_bytes(digest[:8]) % len(options)], parsed=False)


def _last_hit(answer: str, patterns: Sequence[tuple[str, str]]) -> str | None:
    """Return the letter whose pattern ends last in the answer; of patterns that end together, the longest one's."""
    hits = [
        (place + len(pattern), len(pattern), letter)
        for letter, pattern in patterns
        if (place := answer.rfind(pattern)) >= 0
    ]
    return max(hits)[2] if hits else None
