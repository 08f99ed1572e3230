"""A lease on a folder: of several writers on any machines, one writes, and one that is lost is followed by another.

A file lock is let go when its process ends and not when its node is lost, and says nothing on some network volumes. A lease is a
numbered file: the highest number holds the folder. Its holder writes a sign of life into it; who waits goes by its own clock, so
that clocks of nodes need not agree. A number is taken by creating its file, which one writer alone can do: a holder that was thought
lost and comes back finds a higher number, and stops.
"""

import atexit
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from components.errors import StageError
from components.storage.volume import may_pass

_NAME = re.compile(r"writer-(\d{6})\.lease")
_RECORD_BYTES = 512  # always as many: written in place, it is read whole
_SAY_S = 30.0


@dataclass(frozen=True)
class LeaseTimes:
    """How long what may take.

    Attributes:
        beat_s (s): Between two signs of life.
        expires_s (s): Without a sign of life after which a holder counts as lost.
        patience_s (s): That a living holder is waited for.
        look_s (s): Between two looks while waiting.
    """

    beat_s: float = 5.0
    expires_s: float = 60.0
    patience_s: float = 900.0
    look_s: float = 1.0


class Lease:
    """The right to write into a folder, held from `acquire` to `release`.

    Args:
        folder: The folder; made if need be.
        times: How long what may take.
        clock: Returns seconds.
    """

    def __init__(
        self, folder: Path, times: LeaseTimes | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._times = times or LeaseTimes()
        self._clock = clock
        self._number = 0
        self._file = -1
        self._lost = ""
        self._released = threading.Event()
        self._beating: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the folder, waiting for a holder that lives, or that might.

        Raises:
            StageError: Another holder goes on for too long.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        began = heard = said = self._clock()
        last: tuple[int, Any] = (-1, None)
        while True:
            number, record = newest_lease(self._folder)
            if number == 0 or record.get("released") or _is_dead(record):
                if self._take(number + 1):
                    return
                continue
            now = self._clock()
            if (number, record.get("beat")) != last:
                last, heard = (number, record.get("beat")), now
            if now - heard >= self._times.expires_s:
                print(f"{_holder(record)} has left {self._folder} without a word: it is taken over", flush=True)
                if self._take(number + 1):
                    return
                continue
            if now - began >= self._times.patience_s:
                raise StageError(
                    f"{self._folder} is being written by another training, {_holder(record)}, for "
                    f"{now - began:.0f} s already. Wait for it or end it, and run again."
                )
            if now - said >= _SAY_S or said == began:
                said = now + 1e-9
                print(
                    f"{self._folder} is held by {_holder(record)}: waiting until it ends, or gives no sign for "
                    f"{self._times.expires_s:.0f} s",
                    flush=True,
                )
            time.sleep(self._times.look_s)

    def check(self) -> None:
        """Make sure that nobody else has taken the folder.

        Raises:
            StageError: Another writer has, since this one gave no sign for too long.
        """
        if self._lost:
            raise StageError(self._lost)

    def release(self) -> None:
        """Let the folder go; nothing happens if it is not held."""
        if self._file < 0:
            return
        self._released.set()
        if self._beating is not None:
            self._beating.join()
        self._write(0, released=True)
        os.close(self._file)
        self._file = -1

    def _take(self, number: int) -> bool:
        """Create a number's file; False when another writer was quicker."""
        path = self._folder / f"writer-{number:06d}.lease"
        try:
            self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        self._number = number
        self._write(0)
        atexit.register(self.release)  # also where an error comes before anybody could
        for older in self._folder.glob("writer-*.lease"):
            if older.name < path.name:
                older.unlink(missing_ok=True)
        self._beating = threading.Thread(target=self._beat, name=f"lease of {self._folder}", daemon=True)
        self._beating.start()
        return True

    def _beat(self) -> None:
        beat = 0
        while not self._released.wait(self._times.beat_s):
            beat += 1
            try:
                number, record = newest_lease(self._folder)
                if number > self._number:
                    self._lost = (
                        f"{self._folder} is being written by another training by now, {_holder(record)}: this one gave no "
                        f"sign for {self._times.expires_s:.0f} s and stops."
                    )
                    return
                self._write(beat)
            except OSError as error:
                if not may_pass(error):
                    self._lost = f"{self._folder} can't be held any longer: {error}. Look at the volume, and run again."
                    return

    def _write(self, beat: int, *, released: bool = False) -> None:
        record = {"beat": beat, "released": released, **_self()}
        os.pwrite(self._file, json.dumps(record).encode()[:_RECORD_BYTES].ljust(_RECORD_BYTES), 0)
        os.fsync(self._file)


def newest_lease(folder: Path) -> tuple[int, dict[str, Any]]:
    """Return the highest number of a folder's leases and its record; 0 where there is none, {} where it is just being written."""
    numbers = [int(match[1]) for name in os.listdir(folder) if (match := _NAME.fullmatch(name))]
    if not numbers:
        return 0, {}
    number = max(numbers)
    try:
        record = json.loads((folder / f"writer-{number:06d}.lease").read_bytes())
    except (FileNotFoundError, ValueError):
        return number, {}
    return number, record if isinstance(record, dict) else {}


def _self() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid()), "place": _place()}


def _place() -> str:
    """Return what tells process ids of one kernel and container from those of another; empty where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> float:
    return float(psutil.Process(pid).create_time())


def _is_dead(record: dict[str, Any]) -> bool:
    """Tell whether a holder's process has certainly ended: one of this very container."""
    if not record.get("place") or record["place"] != _place():
        return False
    try:
        return abs(_started(int(record["pid"])) - float(record["started"])) > 1.0
    except psutil.NoSuchProcess:
        return True


def _holder(record: dict[str, Any]) -> str:
    return f"process {record.get('pid', '?')} on {record.get('host', 'an unknown machine')}"
