"""The rules of the benchmarks once more, written from their descriptions, slowly and otherwise: for comparing."""

import itertools
import re
from collections.abc import Sequence
from fractions import Fraction

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def strip_marks(text: str) -> str:
    """Strip one kind of punctuation after the other, each once, from both ends."""
    for mark in ",.!?;:'":
        text = re.sub(rf"^{re.escape(mark)}+|{re.escape(mark)}+$", "", text)
    return text


def last_of(found: dict[str, int]) -> str | None:
    """Return the key of the largest place, the first of equals."""
    return None if not found else next(key for key in found if found[key] == max(found.values()))


def places(text: str, patterns: dict[str, str]) -> dict[str, int]:
    """Return the key of every pattern that stands in a text to where it stands last."""
    found = {key: [match.start() for match in re.finditer(f"(?={pattern})", text)] for key, pattern in patterns.items()}
    return {key: max(starts) for key, starts in found.items() if starts}


def option_texts(text: str, options: Sequence[str]) -> str | None:
    if len(text.split()) <= 5:
        return None
    return last_of(
        places(text.lower(), {LETTERS[row]: re.escape(option.lower()) for row, option in enumerate(options)})
    )


def mmmu(text: str, options: Sequence[str]) -> str | None:
    """MMMU's program; None where it guesses."""
    padded, letters = f" {strip_marks(text)} ", LETTERS[: len(options)]
    bracketed = places(padded, {letter: rf"\({letter}\)" for letter in letters})
    alone = places(padded, {letter: f" {letter} " for letter in letters})
    return last_of(bracketed) or last_of(alone) or option_texts(padded, options)


def mmmu_pro(text: str, options: Sequence[str]) -> str | None:
    """MMMU-Pro's program; None where it guesses."""
    letters = LETTERS[: len(options)]
    if "Answer:" in text:
        tail = {character for character in text.split("Answer:")[-1] if character in letters}
        if len(tail) == 1:
            return tail.pop()
    padded = f" {strip_marks(text)} "
    bracketed = places(padded, {letter: rf"\({letter}\)" for letter in letters})
    if bracketed:
        return last_of(bracketed)
    for ending in (" ", r"\."):
        hits = [letter for letter in letters if re.search(f"{letter}{ending}", padded)]
        if hits:
            alone = places(padded, {letter: f" {letter} " for letter in hits})
            return last_of({letter: alone.get(letter, -1) for letter in hits})
    return option_texts(padded, options)


def scienceqa(text: str, options: Sequence[str]) -> str | None:
    """LLaVA's program."""
    letter = None
    if match := re.fullmatch(r"([A-E])", text) or re.match(r"([A-E])\. ", text):
        letter = match[1]
    else:
        named = [match[1] for match in re.finditer(r"The answer is ([A-Z])[^\n]", text)]
        letter = named[0] if len(named) == 1 else None
    return letter if letter and LETTERS.index(letter) < len(options) else None


def ai2d(text: str, options: Sequence[str]) -> str | None:
    """lmms-eval's filter and its exact match without case and punctuation."""
    if match := re.match(r"\s*([A-Z])\.", text):
        text = match[1]
    plain = "".join(character for character in text if not re.match(r"[!-/:-@\[-`{-~]", character)).lower()
    return next((letter for letter in LETTERS[: len(options)] if letter.lower() == plain), None)


def mmbench(text: str, options: Sequence[str]) -> str | None:
    """VLMEvalKit's inference of a choice; None where it would ask a language model or has a refusal."""
    refusals = (
        "Sorry, I can't help with images of people yet.",
        "I can't process this file.",
        "I'm sorry, but without the image provided",
        "Cannot determine the answer",
        "Failed to obtain answer via API",
    )
    if any(refusal in text for refusal in refusals):
        return None
    letters = list(LETTERS[: len(options)])
    words = re.split(r"[\s.()\[\],:;!*#{}]+", text)
    words = [word for word in words if word]
    there = [letter for letter in letters if letter in words]
    if len(there) == 1 and there[0] in words[-4:] and words.index(there[0]) >= len(words) - 4:
        return there[0]
    if not there and "Z" in words:
        return None
    for match in itertools.islice(re.finditer(r"answer\s+is\s+\**([A-D])\**", text, re.IGNORECASE), 1):
        if match[1].upper() in letters:
            return match[1].upper()
    if len(text.lower()) <= 2 * sum(len(option) for option in options):
        named = [letter for letter, option in zip(letters, options, strict=True) if option.lower() in text.lower()]
        if len(named) == 1:
            return named[0]
    return None


def pope(text: str) -> str:
    """POPE's program; an empty answer is neither."""
    if not text:
        return ""
    sentence = re.split(r"\.", text, maxsplit=1)[0].replace(",", "")
    return "no" if re.search(r"(\A| )(No|no|not)( |\Z)", sentence) else "yes"


def mme(text: str) -> str:
    """MME's program: the first four letters."""
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else ""


NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS = {word: str(number) for number, word in enumerate(NUMBERS)}
NUMBER_WORDS["none"] = "0"


def vqa_words(text: str, contractions: dict[str, str]) -> str:
    """The VQA challenge's normalisation, mark by mark."""
    text = re.sub(r"[\n\t]", " ", text).strip()
    marks = ';/[]"{}()=+\\_-><@`,?!'
    everywhere = re.search(r"\d,\d", text) is not None
    result = ""
    for place, character in enumerate(text):
        if character in marks:
            beside = f"{character} " in text or f" {character}" in text
            result += "" if beside or everywhere else " "
        else:
            result += text[place]
    stops, kept = 0, ""
    for place, character in enumerate(result):
        follows_digit = place + 1 < len(result) and bool(re.match(r"\d", result[place + 1]))
        if character == "." and not follows_digit and stops < 32:
            stops += 1
        else:
            kept += character
    words = [NUMBER_WORDS.get(word, word) for word in kept.lower().split()]
    return " ".join(contractions.get(word, word) for word in words if word not in ("a", "an", "the"))


def textvqa_words(text: str, contractions: dict[str, str]) -> str:
    """TextVQA's processor."""
    lowered = re.sub(r"[,?]", "", text.lower())
    return vqa_words(re.sub(r"'s", " 's", lowered).strip(), contractions)


def soft(matches: Sequence[bool]) -> Fraction:
    """Soft accuracy, leaving out one person after the other."""
    parts = [
        min(Fraction(sum(matches) - matches[row], 3), Fraction(1)) for row in range(len(matches))
    ]  # fmt: skip
    return sum(parts, Fraction(0)) / len(parts)


def vqa(text: str, given: Sequence[str], contractions: dict[str, str]) -> Fraction:
    """VQAv2's accuracy of an answer as LLaVA hands it in; an empty one is nobody's."""
    handed_in = textvqa_words(text, contractions)
    plain = [re.sub(r"[\n\t]", " ", one).strip() for one in given]
    if not text:
        return Fraction(0)
    if len(set(plain)) > 1:
        plain = [vqa_words(one, contractions) for one in plain]
        handed_in = vqa_words(handed_in, contractions)
    return soft([one == handed_in for one in plain])


def relaxed(text: str, truth: str) -> bool:
    """ChartQA's relaxed correctness, with exact fractions where both are plain numbers."""

    def number(value: str) -> Fraction | None:
        match = re.fullmatch(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*(%?)", value)
        if not match:
            return None
        found = Fraction(match[1].rstrip(".") if not match[1].startswith(".") else f"0{match[1]}")
        return found / 100 if match[2] else found

    said, wanted = number(text), number(truth)
    if said is not None and wanted:
        return abs(said - wanted) <= Fraction(5, 100) * abs(wanted)
    return text.strip().lower() == truth.strip().lower()
