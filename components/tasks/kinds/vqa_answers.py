"""How answers are normalised before they are compared: the VQA challenge's way, and TextVQA's."""

import re
from functools import lru_cache

from components.tasks.kinds.contractions import CONTRACTIONS

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
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
# Both programs hand a flag over where the number of replacements belongs: re.UNICODE, which is 32.
_MOST_FULL_STOPS = 32


@lru_cache(maxsize=1 << 16)
def normalise_vqa(text: str) -> str:
    """Return an answer as the VQA challenge compares it.

    Punctuation is taken out where a blank is beside it somewhere (or the answer holds a number with commas) and replaced
    by a blank elsewhere; the first 32 full stops go unless a digit follows; then lower case, digits for the words up to
    ten, no articles, and the apostrophe in contractions that lack it.

    Source: https://github.com/GT-Vision-Lab/VQA, `vqaEval.py`.
    """
    text = one_line(text)
    bare = text
    has_commas = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if beside_blank or has_commas else " ")
    bare = _FULL_STOP.sub("", bare, count=_MOST_FULL_STOPS)
    words = (_NUMBERS.get(word, word) for word in bare.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=1 << 16)
def normalise_textvqa(text: str) -> str:
    """Return an answer as TextVQA's challenge compares it, and as LLaVA-1.5 hands answers in to VQAv2's.

    Commas and question marks go first, and `'s` is a word of its own; the rest is the VQA challenge's.

    Source: https://github.com/facebookresearch/mmf, `EvalAIAnswerProcessor`; https://github.com/haotian-liu/LLaVA,
    `m4c_evaluator.py`.
    """
    return normalise_vqa(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip())


def one_line(text: str) -> str:
    """Return an answer in one line and without blanks around it."""
    return text.replace("\n", " ").replace("\t", " ").strip()
