"""What a finished training leaves for its stage; light to import."""

import json
from pathlib import Path

from components.errors import StageError

SUMMARY_NAME = "summary.json"
SKIPPED_NAME = "skipped_samples.json"
"""Key and reason of the samples that could not be used, up to a thousand per data-parallel rank."""

TRAINING_FOLDER = "training"


def is_finished(folder: Path) -> bool:
    """Return whether a training has left everything in its output folder; the summary is written last."""
    return (folder / SUMMARY_NAME).is_file()


def read_summary(folder: Path) -> dict[str, float | int | str]:
    """Return the facts that a finished training left in its output folder.

    Raises:
        StageError: The training did not finish.
    """
    path = folder / SUMMARY_NAME
    if not is_finished(folder):
        raise StageError(f"{path} is missing: the training job ended without finishing.")
    summary: dict[str, float | int | str] = json.loads(path.read_text(encoding="utf-8"))
    return summary
