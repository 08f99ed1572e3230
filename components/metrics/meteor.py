"""METEOR 1.5 through the Java program that pycocoevalcap ships."""

import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import IO, Self

import numpy as np

from components.errors import StageError
from components.metrics.intervals import Floats
from components.metrics.java import java_environment

_JAR = "meteor-1.5.jar"
# The program's own table; named, because it looks for it under a URL's spelling of its folder, where a blank is `%20`.
_PARAPHRASES = "data/paraphrase-en.gz"
_SEPARATOR = "|||"
# Parameters of METEOR 1.5 for English: precision against recall, penalty's exponent and weight, content words' weight,
# and the weights of exact, stem, synonym and paraphrase matches.
_ALPHA, _BETA, _GAMMA, _CONTENT = 0.85, 0.2, 0.6, 0.75
_MATCH_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_CHUNKS = 20
"""Column of the counts that holds the chunks; the matched words of prediction and reference follow."""


class Meteor:
    """A running METEOR program; starting it takes seconds and 1.2 GB (its paraphrase table), so use one for everything.

    Args:
        java: Path of a Java binary.
    """

    def __init__(self, java: str) -> None:
        folder = Path(str(files("pycocoevalcap") / "meteor"))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in __exit__)
        self._process = subprocess.Popen(
            [java, "-jar", "-Xmx2G", _JAR, "-", "-", "-stdio", "-l", "en", "-norm", "-a", _PARAPHRASES],
            cwd=folder,
            env=java_environment(),
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

    def counts(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
        """Match tokenised predictions with their references; float64 [samples, 23].

        METEOR is computed from sums of matching counts over the samples, so that a resample needs no new matching. As in the
        program's `EVAL`, a segment that is matched wholly, in one chunk, adds no chunk to the sum: it is not fragmented.

        Raises:
            StageError: The program failed.
        """
        parts = [
            self._ask(f" {_SEPARATOR} ".join(["SCORE", *map(_clean, captions), _clean(prediction)])).split()
            for prediction, captions in zip(predictions, references, strict=True)
        ]
        counts = np.array(parts, dtype=np.float64)
        words, chunks, matched = counts[:, :2], counts[:, _CHUNKS], counts[:, _CHUNKS + 1 :]
        counts[(chunks == 1) & (matched == words).all(axis=1), _CHUNKS] = 0.0
        return counts

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


def meteor_metric(sums: Floats) -> Floats:
    """Return METEOR of summed matching counts, [r, 23] to [r].

    The counts are those of the program's `SCORE`: words and function words of prediction and reference, for each kind
    of match (exact, stem, synonym, paraphrase) the matched content and function words of both, chunks (none of a segment
    that is matched wholly), and all matched words of both.

    Source: M. Denkowski and A. Lavie, "Meteor Universal", 2014; parameters of version 1.5 for English.
    """
    test_words, reference_words, test_function, reference_function = sums[:, :4].T
    # [r, kind of match, (test content, reference content, test function, reference function)]
    matches = np.einsum("rkm,k->rm", sums[:, 4:_CHUNKS].reshape(-1, 4, 4), _MATCH_WEIGHTS)
    chunks, test_matched, reference_matched = sums[:, _CHUNKS:].T
    precision = _ratio(
        _CONTENT * matches[:, 0] + (1 - _CONTENT) * matches[:, 2],
        _CONTENT * (test_words - test_function) + (1 - _CONTENT) * test_function,
    )
    recall = _ratio(
        _CONTENT * matches[:, 1] + (1 - _CONTENT) * matches[:, 3],
        _CONTENT * (reference_words - reference_function) + (1 - _CONTENT) * reference_function,
    )
    mean = _ratio(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    fragmentation = _ratio(chunks, (test_matched + reference_matched) / 2)
    return mean * (1 - _GAMMA * fragmentation**_BETA)


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _clean(text: str) -> str:
    return " ".join(text.replace(_SEPARATOR, "").split())


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
