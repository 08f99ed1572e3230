"""Progress of a stage, for people: lines in the log and a small file that `vlm run` and `vlm status` read."""

import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.files import replace_text

State = Literal["running", "done", "reused", "failed"]

_FILE_INTERVAL_S = 0.5
_LINE_INTERVAL_S = 10.0
PARTS = "/parts"
"""What the name of a stage that another one joins ends with: several tasks write `<stage>/parts`, the last one `<stage>`."""

_LINE = re.compile(
    r"(?:\[rank \d+\] )?(?P<stage>\S+): (?P<activity>.*?) ?(?P<done>\d+)(?:/(?P<total>\d+))? (?P<unit>[^,]*), (?P<rate>[^,]+)/s"
    r"(?:, (?P<left>\d+) s left)?(?:, (?P<fields>.*))?"
)


@dataclass(frozen=True)
class Reported:
    """What a line of the log tells of a stage's progress.

    Attributes:
        activity: What is being done.
        unit: Name of one unit in the plural.
        done: Units finished.
        total: Units in all, if known.
        rate: Units per second.
        left_s: Seconds left, if known.
        fields: Other numbers that the stage shows, as it wrote them.
    """

    activity: str
    unit: str
    done: int
    total: int | None
    rate: float
    left_s: float | None
    fields: tuple[tuple[str, str], ...]


def progress_folder(workspace: Path, run_id: str) -> Path:
    """Return the folder that holds one progress file per stage of a run."""
    return workspace / "runs" / run_id / "progress"


class Progress:
    """Reports how far a stage is: rate and time left, at most twice a second to the file, every 10 s to the log.

    A progress file is a hint for people and is not fsynced; nothing but displays reads it.

    Args:
        stage: Name that is shown.
        path: The JSON file to write, or None to report to the log alone.
    """

    def __init__(self, stage: str, path: Path | None = None) -> None:
        self.stage = stage
        self.path = path
        self._began = time.time()
        self._activity = ""
        self._unit = ""
        self._total: int | None = None
        self._first_done = 0
        self._whole = False
        self._activity_start = time.monotonic()
        self._last_file = self._last_line = 0.0

    def start(self, activity: str, total: int | None, unit: str, done: int = 0) -> None:
        """Begin a countable activity.

        Args:
            activity: What is being done ("writing shards").
            total: Number of units in all, if known.
            unit: Name of one unit in the plural ("samples").
            done: Units that an earlier run did, left out of the rate.
        """
        self._activity, self._total, self._unit, self._first_done = activity, total, unit, done
        self._whole = False
        self._activity_start = time.monotonic()
        self._last_line = self._activity_start
        self.update(done, force=True)

    def update(self, done: int, force: bool = False, **fields: float | str) -> None:
        """Report that `done` units are finished; `fields` (a loss, MB/s) are shown beside the rate."""
        now = time.monotonic()
        # Told once: of units as large as a megabyte, the last is there long before the last update.
        finished = self._total is not None and done >= self._total and not self._whole
        self._whole |= finished
        write_file = force or finished or now - self._last_file >= _FILE_INTERVAL_S
        write_line = finished or now - self._last_line >= _LINE_INTERVAL_S
        if not (write_file or write_line):
            return
        elapsed = max(now - self._activity_start, 1e-9)
        rate = (done - self._first_done) / elapsed
        left_s = (self._total - done) / rate if self._total is not None and rate > 0 else None
        if write_file:
            self._last_file = now
            self._write("running", done=done, rate=rate, left_s=left_s, fields=fields)
        if write_line and (done or finished):
            self._last_line = now
            total = f"/{self._total}" if self._total is not None else ""
            left = f", {left_s:.0f} s left" if left_s else ""
            extra = "".join(
                f", {name} {value:.4g}" if isinstance(value, float) else f", {name} {value}"
                for name, value in fields.items()
            )
            print(f"{self.stage}: {self._activity} {done}{total} {self._unit}, {rate:.4g}/s{left}{extra}", flush=True)

    def finish(self, state: State, message: str = "") -> None:
        """Record how the stage ended."""
        self._write(state, message=message)

    def _write(self, state: State, **values: Any) -> None:
        if self.path is None:
            return
        record = {
            "stage": self.stage,
            "state": state,
            "activity": self._activity,
            "unit": self._unit,
            "total": self._total,
            "began": self._began,
            "updated": time.time(),
            "pid": os.getpid(),
            **values,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.path, json.dumps(record))


def last_reported(stage: str, log: Iterable[str]) -> Reported | None:
    """Return what the last line about a stage's progress tells; None where the log has none.

    Args:
        stage: Name of the stage, or of what it joins.
        log: Lines of the stage's log, or of the launcher's that follows its ranks.
    """
    found: re.Match[str] | None = None
    for line in log:
        match = _LINE.fullmatch(line.rstrip())
        if match is not None and match["stage"].removesuffix(PARTS) == stage:
            found = match
    if found is None:
        return None
    fields = (field.rpartition(" ") for field in (found["fields"] or "").split(", ") if field)
    return Reported(
        activity=found["activity"],
        unit=found["unit"],
        done=int(found["done"]),
        total=None if found["total"] is None else int(found["total"]),
        rate=float(found["rate"]),
        left_s=None if found["left"] is None else float(found["left"]),
        fields=tuple((name, value) for name, _, value in fields),
    )
