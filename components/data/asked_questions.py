"""Which questions training asks: eight bytes for each different one, so that those of any test can be looked for afterwards."""

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.data.conversation import HUMAN, without_marker

SUFFIX = ".u64"
BYTES_EACH = 8

_BETWEEN_WORDS = re.compile(r"[\W_]+")


def bare(text: str) -> str:
    """Return what a person reads in a text: without case, and with blanks and punctuation as one blank."""
    words = _BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return words or text


def question_hash(question: str) -> int:
    """Return 64 bits that stand for a question; questions are equal but for case, blanks and punctuation."""
    return int.from_bytes(hashlib.blake2b(bare(question).encode(), digest_size=BYTES_EACH).digest())


def asked_in(conversation: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the hashes of the questions of a LLaVA conversation.

    A human turn asks a question where it is the turn, or one of its lines: options and instructions stand on lines of their own.
    """
    asked: set[str] = set()
    for turn in conversation:
        if turn["from"] == HUMAN:
            text = without_marker(turn["value"])
            asked.update(line for line in (text, *text.splitlines()) if line.strip())
    return {question_hash(text) for text in asked}


def packed(hashes: Iterable[int]) -> bytes:
    """Return hashes as a file holds them: sorted, little-endian 64-bit numbers."""
    import numpy as np

    return np.array(sorted(hashes), dtype="<u8").tobytes()


def found_in(folder: Path, wanted: Collection[int]) -> set[int]:
    """Return which hashes stand in the files of a folder; one file is in memory at a time."""
    import numpy as np

    left = np.array(sorted(wanted), dtype="<u8")
    found: set[int] = set()
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        found.update(left[np.isin(left, np.fromfile(path, dtype="<u8"))].tolist())
    return found
