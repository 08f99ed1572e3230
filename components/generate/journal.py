"""The answers of finished batches, on disk from the moment that a batch is done: what a killed generation goes on from."""

import json
import os
from pathlib import Path
from typing import Self

from components.errors import StageError
from components.generate.answerer import Answer

JOURNAL_FOLDER = "answers"


class Journal:
    """Append-only file of one copy of the model, beside those of the others; a line holds the answers of a batch.

    Args:
        folder: Holds the journals of all copies that answer one partition.
        rank: Number of this copy.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"rank_{rank:04d}.jsonl"
        whole = _whole_lines(path)
        self._stream = open(path, "ab")  # noqa: SIM115  closed by __exit__
        # What a kill left of a line would join the next one.
        self._stream.truncate(len(whole))

    def __enter__(self) -> Self:
        """Return the journal; it is closed with the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self._stream.close()

    def append(self, batch: int, answers: list[Answer]) -> None:
        """Add the answers of a batch and wait until the disk has them."""
        self._stream.write(json.dumps({"batch": batch, "answers": answers}).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())


def finished_batches(folder: Path, sizes: list[int]) -> dict[int, list[Answer]]:
    """Return the answers of all batches that the journals of a folder hold.

    Args:
        folder: Holds the journals; it may not exist yet.
        sizes: Number of prompts of every batch.

    Raises:
        StageError: A journal holds what this generation can't have written.
    """
    found: dict[int, list[Answer]] = {}
    for path in sorted(folder.glob("rank_*.jsonl")):
        for number, line in enumerate(_whole_lines(path).splitlines(), start=1):
            try:
                row = json.loads(line)
                batch, answers = row["batch"], [Answer(*answer) for answer in row["answers"]]
                fits = len(answers) == sizes[batch] and all(isinstance(answer.text, str) for answer in answers)
            except (ValueError, KeyError, TypeError, IndexError):
                fits = False
            if not fits:
                raise StageError(
                    f"{path}, line {number} is not a batch of this generation: the file was changed or damaged. Delete "
                    f"{folder} to generate the partition anew."
                )
            found[batch] = answers
    return found


def count_batches(folder: Path) -> int:
    """Return how many batches the journals of a folder hold; it may not exist yet."""
    return sum(_whole_lines(path).count(b"\n") for path in folder.glob("rank_*.jsonl"))


def _whole_lines(path: Path) -> bytes:
    """Return a journal without the line that a kill left unfinished."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]
