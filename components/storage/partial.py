"""A file that is being received: the bytes so far in `NAME.part`, which of them are there in `NAME.part.json`.

The state is written after the bytes that it speaks of have reached the disk, so that a process or a machine that dies at
any moment leaves a state that is true.
"""

import json
import os
import threading
from itertools import pairwise
from pathlib import Path

from components.errors import InputError
from components.storage.atomic import write_json
from components.storage.checksum import sha256_file
from components.storage.remote import FileFacts

PART_SUFFIX = ".part"
STATE_SUFFIX = ".part.json"

Range = tuple[int, int]


class PartialFile:
    """Receives a file in any order of ranges.

    Args:
        target: The file's final path.
        facts: What is known of the source; bytes of a source with other facts are thrown away.
    """

    def __init__(self, target: Path, facts: FileFacts) -> None:
        self._target, self._facts = target, facts
        self._part, self._state = _beside(target)
        self._lock = threading.Lock()
        target.parent.mkdir(parents=True, exist_ok=True)
        self._ranges = stored_ranges(target, facts)
        self._committed = list(self._ranges)
        self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | (0 if self._ranges else os.O_TRUNC), 0o644)

    @property
    def received(self) -> int:
        """Bytes that are there."""
        with self._lock:
            return sum(end - start for start, end in self._ranges)

    def write(self, offset: int, chunk: bytes) -> None:
        """Store received bytes."""
        written = 0
        while written < len(chunk):
            written += os.pwrite(self._descriptor, memoryview(chunk)[written:], offset + written)
        with self._lock:
            self._ranges = joined([*self._ranges, (offset, offset + len(chunk))])

    def commit(self) -> None:
        """Make what was received so far survive the process and the machine."""
        with self._lock:
            ranges = list(self._ranges)
        if ranges == self._committed or not self._facts.ranges:  # a file that must be read in one go is not resumed
            return
        os.fdatasync(self._descriptor)
        write_json(self._state, {"size": self._facts.size, "validator": self._facts.validator, "ranges": ranges})
        self._committed = ranges

    def restart(self) -> None:
        """Throw away what was received."""
        with self._lock:
            self._ranges, self._committed = [], []
            self._state.unlink(missing_ok=True)
            os.ftruncate(self._descriptor, 0)

    def finish(self, sha256: str, shown: str) -> None:
        """Check the file and rename it into place.

        Args:
            sha256: Expected checksum; empty for no check.
            shown: Where it comes from, for errors.

        Raises:
            InputError: It has another checksum; it is thrown away.
        """
        os.fsync(self._descriptor)
        self.close()
        if sha256 and (found := sha256_file(self._part)) != sha256.lower():
            self._part.unlink()
            self._state.unlink(missing_ok=True)
            raise InputError(
                f"{shown} has SHA-256 {found}, expected was {sha256}: it was damaged on the way, or is another version. "
                "What was received is deleted."
            )
        os.replace(self._part, self._target)
        self._state.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; what was not committed is forgotten."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_finished(target: Path) -> bool:
    """Tell whether a file was received completely, and remove what a process killed just then has left."""
    if not target.is_file():
        return False
    for path in _beside(target):
        path.unlink(missing_ok=True)
    return True


def stored_ranges(target: Path, facts: FileFacts) -> list[Range]:
    """Return which bytes an earlier process has received; none of a source with other facts."""
    part, state = _beside(target)
    try:
        content = json.loads(state.read_bytes())
        ranges = joined([(int(start), int(end)) for start, end in content["ranges"]])
        same = (content["size"], content["validator"]) == (facts.size, facts.validator)
        length = part.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return []
    usable = same and facts.ranges and facts.size is not None and all(0 <= a < b <= length for a, b in ranges)
    return ranges if usable else []


def joined(ranges: list[Range]) -> list[Range]:
    """Return ranges in order, those that touch as one."""
    result: list[Range] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def missing_ranges(ranges: list[Range], size: int, longest: int) -> list[Range]:
    """Return what lies between ranges, cut into pieces of at most `longest` bytes."""
    bounds = [(0, 0), *ranges, (size, size)]
    gaps = [(left[1], right[0]) for left, right in pairwise(bounds)]
    return [(at, min(at + longest, end)) for start, end in gaps for at in range(start, end, longest)]


def _beside(target: Path) -> tuple[Path, Path]:
    return target.with_name(target.name + PART_SUFFIX), target.with_name(target.name + STATE_SUFFIX)
