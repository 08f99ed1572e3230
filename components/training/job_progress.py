"""How far a training job is, as its launcher sees it: by the folder and the progress file, without torch."""

from pathlib import Path

from components.errors import StageError
from components.files import read_hint
from components.training.checkpoint.layout import checkpoints, step_of
from components.training.summary import TRAINING_FOLDER, is_finished


class TrainingProgress:
    """Progress of one training.

    Args:
        folder: The stage's output folder.
        progress_file: What the first rank reports to.
    """

    unit = "step"

    def __init__(self, folder: Path, progress_file: Path | None) -> None:
        self._folder = folder
        self._progress_file = progress_file
        self._saved = 0

    def saved(self) -> int:
        """Return the step of the newest complete checkpoint, 0 for none; the last one known while the volume fails."""
        try:
            found = checkpoints(self._folder / TRAINING_FOLDER)
        except StageError:
            return self._saved
        self._saved = step_of(found[-1]) if found else 0
        return self._saved

    def done(self) -> int:
        """Return the last step that was reported, 0 for none."""
        record = read_hint(self._progress_file) if self._progress_file is not None else {}
        return int(record.get("done") or 0) if record.get("unit") == "steps" else 0

    def finished(self) -> bool:
        """Return whether everything that the training leaves is there."""
        return is_finished(self._folder)
