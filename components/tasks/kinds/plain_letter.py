"""The letter that a person reads in an answer; None where a person would not be sure."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from components.tasks.template import LETTERS, lettered

_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_NAMED = re.compile(
    r"(?:\b(?:answer|option|choice|antwort|respuesta|réponse)\b|答案|选)"
    r"(?:\s+(?:is|would be|ist|es|est))?\s*[:：是为]?\s*[\W_]*([A-Z])(?![A-Za-z'’])",
    re.IGNORECASE,
)
_LEADING = re.compile(r"[\W_]*([A-Z])[.:)\]}、：。*]+(?:\s|$)")
_BEGUN = re.compile(r"^[\W_]*([A-Z])[.:)\]]", re.MULTILINE)
_BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]")
_LONE = re.compile(r"(?<![A-Za-z'’])([A-Z])(?![A-Za-z'’])")
_DENIED = re.compile(
    r"\b(?:not|never|neither|nor|isn't|cannot be|rather than|instead of)\W+(?:\w+\W+)?$", re.IGNORECASE
)
_BLANKS = re.compile(r"\s+")


def read_plainly(text: str, options: Sequence[str]) -> str | None:
    """Read the letter that an answer means.

    What counts, in this order: an option's text and nothing else; one letter and nothing else; a letter that is named as
    the answer, the last one; a letter before a full stop, colon or bracket at the beginning; the only letter that stands
    alone and is neither denied nor an article; the only option whose text stands in the answer undenied. Answers that name
    several letters mean none.

    Args:
        text: The answer.
        options: Texts of options A, B, ...
    """
    letters = LETTERS[: len(options)]
    answer = _BOXED.sub(r"\1", unicodedata.normalize("NFKC", text)).strip()
    same = [letter for letter, option in lettered(options) if _bare(option) and _bare(option) == _bare(answer)]
    if same:
        return same[0] if len(same) == 1 else None
    lines = [_only_letter(line) for line in answer.splitlines() if line.strip()]
    alone = {letter for letter in lines if letter}
    if lines and lines[0] and len(alone) == 1:
        return lines[0] if lines[0] in letters else None
    if len(alone) > 1:
        return None
    named = [match for match in _NAMED.finditer(answer) if match[1].isupper() and not _is_article(answer, match.end(1))]
    if named:
        last = named[-1][1]
        others = set(_loose_letters(answer[named[-1].end() :], letters)) - {last}
        return last if last in letters and not others else None
    leading = _LEADING.match(answer)
    if leading and leading[1] in letters:
        begun = {*_BEGUN.findall(answer), *_BRACKETED.findall(answer)}
        return leading[1] if begun == {leading[1]} else None
    loose = set(_loose_letters(answer, letters))
    if loose:
        return loose.pop() if len(loose) == 1 else None
    return _only_option(answer, options)


def _bare(text: str) -> str:
    return _BLANKS.sub(" ", unicodedata.normalize("NFKC", text)).strip(" .,;:!?'\"*`。").casefold()


def _only_letter(line: str) -> str:
    """Return the letter of a line that has nothing else but marks; a small one counts where it has no neighbours at all."""
    bare = re.sub(r"[\W_]", "", line)
    return bare.upper() if len(bare) == 1 and bare.isascii() and bare.isalpha() else ""


def _loose_letters(text: str, letters: str) -> Iterator[str]:
    """Yield letters that stand alone and are neither denied nor the article or the pronoun."""
    for match in _LONE.finditer(text):
        known = match[1] in letters and not _DENIED.search(text[: match.start()])
        if known and not _is_article(text, match.end()) and not (match[1] == "I" and not _bracketed(text, match)):
            yield match[1]


def _is_article(text: str, end: int) -> bool:
    """Tell whether the letter that ends there is the article of a word that follows."""
    return text[end - 1] == "A" and re.match(r"\s+[a-z]{2,}", text[end:]) is not None and not _joined(text[end:])


def _joined(rest: str) -> bool:
    return re.match(r"\s+(?:and|or|but|is|because|since|as|und|oder|ou|et|y)\b", rest) is not None


def _bracketed(text: str, match: re.Match[str]) -> bool:
    return text[: match.start()].endswith(("(", "[")) and text[match.end() :].startswith((")", "]"))


def _only_option(answer: str, options: Sequence[str]) -> str | None:
    """Return the letter of the only option whose words stand in an answer undenied; longer options hide those within them."""
    text = _bare(answer)
    found: list[tuple[int, int, str]] = []
    for letter, option in sorted(lettered(options), key=lambda pair: -len(_bare(pair[1]))):
        bare = _bare(option)
        if not bare:
            continue
        for match in re.finditer(rf"(?<!\w){re.escape(bare)}(?!\w)", text):
            hidden = any(start <= match.start() and match.end() <= end for start, end, _ in found)
            if not hidden and not _DENIED.search(text[: match.start()]):
                found.append((*match.span(), letter))
    letters = {letter for _, _, letter in found}
    return letters.pop() if len(letters) == 1 else None
