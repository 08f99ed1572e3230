"""Cuts captions into words the way COCO's caption evaluation does."""

import re
import subprocess
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from components.errors import StageError
from components.metrics.java import java_environment

PTB = "ptb"
WORDS = "words (no Java; does not compare with ptb)"

_JAR = "stanford-corenlp-3.4.1.jar"
_TIMEOUT_S = 1800
_WORD = re.compile(r"\w+(?:['-]\w+)*")


def tokenise(captions: Sequence[str], java: str | None) -> list[str]:
    """Cut captions into lower-case words separated by single blanks, without punctuation.

    With Java this is Stanford's PTB tokenizer as pycocoevalcap runs it (same jar, same options, same punctuation list),
    except that the text goes through a pipe: pycocoevalcap writes into its own package folder, which is read-only in a
    container. Without Java, runs of word characters.

    Args:
        captions: Captions; blanks and line breaks of any kind count as one blank.
        java: Path of a Java binary, or None.

    Raises:
        StageError: The tokenizer failed.
    """
    lines = [" ".join(caption.split()) for caption in captions]
    if java is None:
        return [" ".join(_WORD.findall(line.lower())) for line in lines]
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    punctuation = frozenset(PUNCTUATIONS)
    return [" ".join(word for word in line.split(" ") if word not in punctuation) for line in _ptb(lines, java)]


def _ptb(lines: Sequence[str], java: str) -> list[str]:
    if not lines:
        return []
    jar = Path(str(files("pycocoevalcap") / "tokenizer" / _JAR))
    command = [
        java,
        "-cp",
        str(jar),
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
        "-encoding",
        "UTF-8",
    ]
    result = subprocess.run(
        command,
        input="\n".join(lines).encode() + b"\n",
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
        env=java_environment(),
    )
    output = result.stdout.decode().split("\n")
    if result.returncode != 0 or len(output) < len(lines):
        message = result.stderr.decode(errors="replace").strip()[-1000:]
        raise StageError(
            f"The PTB tokenizer ({java}) gave {len(output)} lines for {len(lines)} captions, exit code {result.returncode}: {message}"
        )
    return [line.rstrip() for line in output[: len(lines)]]
