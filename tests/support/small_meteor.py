"""METEOR with few paraphrases: to read the five million of its own table takes seconds at every start."""

import gzip
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest
from pycocoevalcap.meteor import meteor as wrapper

from components.metrics import meteor

JAR = "meteor-1.5.jar"
PARAPHRASES = (("a picture of", "a photo of"), ("circle", "ring"), ("on the right", "to the right"))


def install_meteor(folder: Path, paraphrases: Sequence[tuple[str, str]]) -> None:
    """Install the program as in pycocoevalcap's folder `meteor`, with a table of these paraphrases."""
    (folder / "data").mkdir(parents=True)
    shutil.copyfile(str(files("pycocoevalcap") / "meteor" / JAR), folder / JAR)
    with gzip.open(folder / "data" / "paraphrase-en.gz", "wt", encoding="utf-8") as table:
        for one, other in paraphrases:
            table.write(f"0.5\n{one}\n{other}\n0.5\n{other}\n{one}\n")


@contextmanager
def small_meteor(folder: Path, paraphrases: Sequence[tuple[str, str]] = PARAPHRASES) -> Iterator[None]:
    """Install METEOR below a folder; this process starts it from there, by our class and by pycocoevalcap's wrapper."""
    install_meteor(folder / "meteor", paraphrases)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meteor, "files", lambda package: folder)
        patch.setattr(wrapper, "__file__", str(folder / "meteor" / "meteor.py"))
        patch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")  # it ends before optimised code would pay
        yield
