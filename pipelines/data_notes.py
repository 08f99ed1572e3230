"""What a run found to learn from, and what that can teach: said as soon as the data is here."""

from collections.abc import Sequence
from typing import get_args

from components.runs.folder import RunFolder
from components.runs.rows import FINISHED_STAGE, StageRow
from components.stage.manifest import read_manifest
from pipelines.config import TrainingStage

_STAGE = "download/dataset"
_LEARNT_BY_HEART = 50
"""Times that a training sees each sample from which on it is said that it learns them by heart."""
_FEW_HELD_OUT = 100


def data_notes(run: RunFolder, rows: Sequence[StageRow]) -> tuple[str, ...]:
    """Return what there is to say of a run's data, a line each; nothing before the data is here.

    Args:
        run: The run, of this machine.
        rows: Its stages.
    """
    folder = next((row.folder for row in rows if row.stage == _STAGE and row.state in FINISHED_STAGE), None)
    settings = run.settings()
    if folder is None or not settings:
        return ()
    facts = read_manifest(folder).facts
    held_out, times = facts["held_out_pictures"], {}
    for stage in get_args(TrainingStage):
        recipe, entries = settings[stage]["recipe"], facts[f"{stage}_entries"]
        times[stage] = recipe["iterations"] * recipe["global_batch_size"] / max(entries, 1)
    seen = ", ".join(f"{_times(count)} ({stage})" for stage, count in times.items())
    notes = [
        f"data: {facts['pictures']:,} pictures, {held_out:,} held out; {facts['pretrain_entries']:,} captions, seen {seen}"
    ]
    if facts.get("rejected_entries"):
        notes.append(f"{facts['rejected_entries']:,} entries can't be used: {folder / 'rejects.jsonl'} says why.")
    if max(times.values()) > _LEARNT_BY_HEART:
        notes.append(
            "So little is learnt by heart and teaches next to nothing about other pictures: expect scores like the controls'."
        )
    if held_out < _FEW_HELD_OUT:
        notes.append(f"{held_out:,} held-out pictures measure roughly: mind the intervals.")
    return tuple(notes)


def _times(count: float) -> str:
    return f"{count:,.0f} times" if count >= 9.5 else f"{count:.1f} times"
