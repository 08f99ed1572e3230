"""METEOR 1.5 through the Java program that pycocoevalcap ships."""

import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import IO, Self

import numpy as np

from components.errors import StageError
from components.evaluate.intervals import Floats, Statistic

_JAR = "meteor-1.5.jar"
_SEPARATOR = "|||"


class Meteor:
    """A running METEOR program; starting it takes seconds and 1.2 GB (its paraphrase table), so use one for everything.

    Args:
        java: Path of a Java binary.
    """

    def __init__(self, java: str) -> None:
        folder = Path(str(files("pycocoevalcap") / "meteor"))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in __exit__)
        self._process = subprocess.Popen(
            [java, "-jar", "-Xmx2G", _JAR, "-", "-", "-stdio", "-l", "en", "-norm"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def __enter__(self) -> Self:
        """Return the running program; it ends with the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the program."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def statistic(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistic:
        """Match tokenised predictions with their references.

        METEOR is computed from sums of matching counts over the samples, so that a resample needs no new matching.

        Raises:
            StageError: The program failed.
        """
        parts = [
            self._ask(f" {_SEPARATOR} ".join(["SCORE", *map(_clean, captions), _clean(prediction)])).split()
            for prediction, captions in zip(predictions, references, strict=True)
        ]
        return Statistic(np.array(parts, dtype=np.float64), self._metric)

    def _metric(self, sums: Floats) -> Floats:
        stats = (" ".join(f"{number:.1f}" for number in row) for row in sums)
        values = [float(self._ask(f" {_SEPARATOR} ".join(["EVAL", *stats])))]
        values += [float(self._answer()) for _ in range(len(sums))]
        return np.array(values[:-1])  # the last one is the score of all rows together

    def _ask(self, line: str) -> str:
        try:
            stream = _open(self._process.stdin)
            stream.write(line.encode() + b"\n")
            stream.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return self._answer()

    def _answer(self) -> str:
        answer = _open(self._process.stdout).readline().decode().strip()
        if not answer:
            raise self._failure()
        return answer

    def _failure(self) -> StageError:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        message = self._errors.read().decode(errors="replace").strip()[-1000:]
        return StageError(
            f"METEOR's Java program ended: {message or 'no message'}. It needs some 2 GB of memory; "
            "leave `meteor` out of the task's metrics where there is less."
        )


def _clean(text: str) -> str:
    return " ".join(text.replace(_SEPARATOR, "").split())


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
