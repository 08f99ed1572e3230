"""SPICE through the Java program that pycocoevalcap ships; the parser that it needs is given by the user.

pycocoevalcap fetches Stanford CoreNLP 3.6.0 (400 MB) into its own package folder when SPICE is first computed: that needs a network
and a writable installation. Here a setting names the folder with the two jars.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from components.errors import ConfigurationError, StageError
from components.metrics.intervals import Floats

PARSER_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

_MAIN = "edu.anu.spice.SpiceScorer"
_TIMEOUT_S = 4 * 3600


def check_jars(folder: Path) -> None:
    """Check that a folder holds the parser's jars.

    Raises:
        ConfigurationError: One is missing.
    """
    missing = [name for name in PARSER_JARS if not (folder / name).is_file()]
    if missing:
        raise ConfigurationError(
            f"spice_jars: {folder} has no {' and no '.join(missing)}. They are in the archive of Stanford CoreNLP 3.6.0; leave the "
            "setting empty to go without SPICE."
        )


def spice_scores(predictions: Sequence[str], references: Sequence[Sequence[str]], java: str, jars: Path) -> Floats:
    """Return SPICE (F over scene-graph tuples) of every prediction, float64 [samples] in 0..1.

    Args:
        predictions: Tokenised predictions.
        references: Tokenised captions of every sample.
        java: Path of a Java binary.
        jars: Folder with `PARSER_JARS`.

    Raises:
        StageError: The program failed.
    """
    shipped = Path(str(files("pycocoevalcap") / "spice"))
    path = os.pathsep.join(
        [str(shipped / "spice-1.0.jar"), str(shipped / "lib" / "*"), *(str(jars / name) for name in PARSER_JARS)]
    )
    rows = [
        {"image_id": row, "test": text, "refs": list(captions)}
        for row, (text, captions) in enumerate(zip(predictions, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(temporary) / "in.json", Path(temporary) / "out.json"
        source.write_text(json.dumps(rows), encoding="utf-8")
        command = [java, "-Xmx8G", "-cp", path, _MAIN, str(source), "-out", str(target), "-silent"]
        result = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
        if result.returncode != 0 or not target.is_file():
            message = result.stderr.decode(errors="replace").strip()[-1000:]
            raise StageError(
                f"SPICE's Java program ended with exit code {result.returncode}: {message or 'no message'}. It needs some 8 GB of "
                "memory; empty spice_jars to go without it."
            )
        found = {
            item["image_id"]: item["scores"]["All"]["f"] for item in json.loads(target.read_text(encoding="utf-8"))
        }
    if set(found) != set(range(len(rows))):
        raise StageError(f"SPICE's Java program scored {len(found)} of {len(rows)} captions.")
    # A caption and references without any tuple have no F: nothing was said right.
    return np.nan_to_num(np.array([float(found[row]) for row in range(len(rows))]))
