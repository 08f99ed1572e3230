"""From an answer's text to the letter of an option: one rule for each way in which benchmarks do it.

A rule is named by the task (`reading`). All but `plain` and `text` are those of the programs that published figures come
from; facts on each are in docs/benchmarks.md.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from components.tasks.kinds.plain_letter import read_plainly
from components.tasks.template import LETTERS, lettered

_PUNCTUATION = ",.!?;:'"
_ASCII_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
# MMMU looks for an option's text only in answers of more words than this.
_SHORT_ANSWER_WORDS = 5
_SCIENCEQA_LETTERS = "ABCDE"
_SCIENCEQA = re.compile(r"The answer is ([A-Z]).")
_AI2D = re.compile(r"\s*([A-Z])\.")
_MMBENCH_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_MMBENCH_LAST_WORDS = 5
_MMBENCH_PHRASE = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)
_MMBENCH_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
    "Failed to obtain answer via API",
)


@dataclass(frozen=True)
class LetterRule:
    """A way to read letters.

    Attributes:
        read: From an answer and the texts of options A, B, ... to a letter, or None where there is none.
        guesses: Whether a letter stands in for an unreadable answer, as in benchmarks that guess at random then; else it
            counts as wrong.
    """

    read: Callable[[str, Sequence[str]], str | None]
    guesses: bool = False


def read_mmmu(text: str, options: Sequence[str]) -> str | None:
    """Read a letter as MMMU does (`parse_multi_choice_response`).

    In its order: `(A)`; a lone `A`; in answers of more than five words an option's text, whatever the case. Of several
    hits the one that begins last counts. Where MMMU finds nothing and guesses: `A)`, and a lone `A` at the end of a line.
    """
    letters = LETTERS[: len(options)]
    answer = f" {_stripped(text)} "
    found = _last(answer, ((letter, f"({letter})") for letter in letters))
    found = found or _last(answer, ((letter, f" {letter} ") for letter in letters))
    found = found or _option_within(answer, options)
    if found is not None:
        return found
    answer = f" {' '.join(text.split()).strip(_PUNCTUATION + ' ')} "
    found = _last(answer, ((letter, f" {letter}) ") for letter in letters))
    return found or _last(answer, ((letter, f" {letter} ") for letter in letters))


def read_mmmu_pro(text: str, options: Sequence[str]) -> str | None:
    """Read a letter as MMMU-Pro does (`mmmu-pro/evaluate.py`).

    First the one letter that stands after the last "Answer:". Then as MMMU, but a letter that ends a word, and one before
    a full stop, count as lone ones; of several such, the last that stands alone, else the first.
    """
    letters = LETTERS[: len(options)]
    _, mark, tail = text.rpartition("Answer:")
    named = [letter for letter in letters if letter in tail] if mark else []
    if len(named) == 1:
        return named[0]
    answer = f" {_stripped(text)} "
    found = _last(answer, ((letter, f"({letter})") for letter in letters))
    if found:
        return found
    for end in (" ", "."):
        hits = [letter for letter in letters if f"{letter}{end}" in answer]
        if hits:
            return max(hits, key=lambda letter: answer.rfind(f" {letter} "))
    return _option_within(answer, options)


def read_scienceqa(text: str, options: Sequence[str]) -> str | None:
    """Read a letter as LLaVA's `eval_science_qa.py` does: `A`; `A. ` at the beginning; one "The answer is A."."""
    letter = ""
    if text in tuple(_SCIENCEQA_LETTERS):
        letter = text
    elif len(text) > 2 and text[0] in _SCIENCEQA_LETTERS and text[1:3] == ". ":
        letter = text[0]
    elif len(found := _SCIENCEQA.findall(text)) == 1:
        letter = found[0]
    return letter if letter and letter in LETTERS[: len(options)] else None


def read_ai2d(text: str, options: Sequence[str]) -> str | None:
    """Read a letter as lmms-eval does for AI2D: `A.` at the beginning, or nothing but a letter, whatever its case."""
    start = _AI2D.match(text)
    bare = (start[1] if start else text).strip(_ASCII_PUNCTUATION).upper()
    return bare if bare and bare in tuple(LETTERS[: len(options)]) else None


def read_lone(text: str, options: Sequence[str]) -> str | None:
    """Read nothing but a letter, as LLaVA does for SEED-Bench."""
    return text if text in tuple(LETTERS[: len(options)]) else None


def read_mmbench(text: str, options: Sequence[str]) -> str | None:
    """Read a letter as VLMEvalKit does (`can_infer`), which leaves other answers to a language model; here they are wrong.

    The only lone letter, among the last five words; "answer is A"; the only option whose text stands in an answer that is
    not much longer than all options.
    """
    if any(refusal in text for refusal in _MMBENCH_REFUSALS):
        return None
    letters = LETTERS[: len(options)]
    words = text.translate(_MMBENCH_MARKS).split()
    lone = [letter for letter in letters if letter in words]
    if len(lone) == 1 and words.index(lone[0]) > len(words) - _MMBENCH_LAST_WORDS:
        return lone[0]
    if not lone and "Z" in words:
        return None
    phrase = _MMBENCH_PHRASE.search(text)
    if phrase and phrase[1].upper() in letters:
        return phrase[1].upper()
    if len(text.lower()) > 2 * sum(map(len, options)):
        return None
    named = [letter for letter, option in lettered(options) if option.lower() in text.lower()]
    return named[0] if len(named) == 1 else None


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


RULES = {
    "plain": LetterRule(read_plainly, guesses=True),
    "mmmu": LetterRule(read_mmmu, guesses=True),
    "mmmu_pro": LetterRule(read_mmmu_pro, guesses=True),
    "scienceqa": LetterRule(read_scienceqa),
    "ai2d": LetterRule(read_ai2d),
    "lone": LetterRule(read_lone),
    "mmbench": LetterRule(read_mmbench),
}
"""The rules for letters by their names in tasks."""

OPTION_TEXT = LetterRule(read_option_text, guesses=True)
"""The rule where an option's text is asked for."""


def _stripped(text: str) -> str:
    for mark in _PUNCTUATION:
        text = text.strip(mark)
    return text


def _bare(text: str) -> str:
    return " ".join(text.split()).strip(_PUNCTUATION + " ").casefold()


def _option_within(answer: str, options: Sequence[str]) -> str | None:
    """Return the option whose text begins last in an answer of more than a few words."""
    if len(answer.split()) <= _SHORT_ANSWER_WORDS:
        return None
    return _last(answer.lower(), ((letter, option.lower()) for letter, option in lettered(options) if option))


def _last(answer: str, patterns: Iterable[tuple[str, str]]) -> str | None:
    """Return the letter whose pattern begins last in the answer, the first of equals."""
    hits = [(place, letter) for letter, pattern in patterns if (place := answer.rfind(pattern)) >= 0]
    return max(hits, key=lambda hit: hit[0])[1] if hits else None
