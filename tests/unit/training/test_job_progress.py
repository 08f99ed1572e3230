"""How far a training is, as its launcher sees it."""

import errno
import os
from pathlib import Path

import pytest

from components.progress import Progress
from components.training.checkpoint.layout import checkpoint_folder, unfinished
from components.training.job_progress import TrainingProgress
from components.training.summary import SUMMARY_NAME


def test_checkpoints_steps_and_the_end_are_read(tmp_path: Path) -> None:
    file = tmp_path / "progress.json"
    progress = TrainingProgress(tmp_path, file)
    assert (progress.saved(), progress.done(), progress.finished()) == (0, 0, False)
    reported = Progress("pretrain", file)
    reported.start("starting", None, "")
    assert progress.done() == 0
    reported.start("training", 20, "steps", done=6)
    reported.update(8, force=True)
    for step in (3, 6):
        checkpoint_folder(tmp_path / "training", step).mkdir(parents=True)
    unfinished(checkpoint_folder(tmp_path / "training", 9)).mkdir()
    assert (progress.saved(), progress.done()) == (6, 8)
    (tmp_path / SUMMARY_NAME).write_text("{}")
    assert progress.finished()


def test_what_was_known_counts_while_the_volume_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress = TrainingProgress(tmp_path, None)
    checkpoint_folder(tmp_path / "training", 3).mkdir(parents=True)
    assert progress.saved() == 3

    def stale(_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "scandir", stale)
    monkeypatch.setattr("components.storage.volume._WAITS_S", ())
    assert progress.saved() == 3
