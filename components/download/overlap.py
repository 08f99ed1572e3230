"""How many of the evaluation's questions training asks, word for word."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from components.data.conversation import HUMAN, IMAGE_MARKER
from components.download import layout

_BETWEEN_WORDS = re.compile(r"[\W_]+")


def bare(text: str) -> str:
    """Return what a person reads in a text: without case, and with blanks and punctuation as one blank."""
    words = _BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return words or text


class QuestionOverlap:
    """Watches training entries on their way into a file.

    Questions are equal but for case, blanks and punctuation. A human turn asks a question where it is the turn, or one of
    its lines: options and instructions stand on lines of their own.

    Args:
        questions: File to its lines.
    """

    def __init__(self, questions: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        self._asked = {
            file: {bare(row["question"]) for row in rows if row.get("question")} for file, rows in questions.items()
        }
        self._unseen: set[str] = set().union(*self._asked.values())
        self._seen: set[str] = set()

    def watch(self, entries: Iterable[layout.Entry]) -> Iterator[layout.Entry]:
        """Yield the entries."""
        for entry in entries:
            if self._unseen:
                for turn in entry["conversations"]:
                    if turn["from"] == HUMAN:
                        self._note(turn["value"].replace(IMAGE_MARKER, ""))
            yield entry

    def counts(self) -> dict[str, dict[str, int]]:
        """Return, for every file with questions, how many different ones it has and how many of them were seen."""
        return {
            file: {"questions": len(asked), "asked_in_training": len(asked & self._seen)}
            for file, asked in sorted(self._asked.items())
            if asked
        }

    def _note(self, text: str) -> None:
        lines = text.splitlines()
        for part in (text, *(lines if len(lines) > 1 else ())):
            found = bare(part)
            if found in self._unseen:
                self._unseen.discard(found)
                self._seen.add(found)
