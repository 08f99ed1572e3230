"""Fetches files: several at once, ranges of a big one at once, from where an earlier attempt ended."""

import os
import queue
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from components.errors import InputError, StageError
from components.progress import Progress
from components.storage.config import TransferConfig
from components.storage.faults import Faults
from components.storage.partial import PartialFile, is_finished, missing_ranges, stored_ranges
from components.storage.remote import FileFacts, PassingFault, RangesIgnored, RemoteFile, SourceChanged

PIECE_BYTES = 32 << 20
"""Longest range that is asked for at once."""

_LOOK_S = 0.2
_COMMIT_S = 1.0
_MOST_RESTARTS = 3
_MEGABYTE = 1_000_000


def fetch_files(files: Sequence[RemoteFile], folder: Path, config: TransferConfig, progress: Progress) -> int:
    """Fetch files into a folder; finished ones are kept, begun ones go on where they were cut.

    Args:
        files: What to fetch.
        folder: Where to; each file is stored under its name.
        config: How many connections, how much patience.
        progress: Told how many megabytes are there, with rate and time left.

    Returns:
        Bytes that were received now.

    Raises:
        InputError: A file is missing, forbidden or damaged, or a server contradicts itself.
        StageError: Too many faults in a row, or too little free disk.
    """
    due = [_Fetched(file, folder / file.name) for file in files if not is_finished(folder / file.name)]
    return _Transfer(due, folder, config, progress).run() if due else 0


@dataclass(frozen=True)
class _Piece:
    """A range of a file; `end` is None for a file that comes in one go and of unknown size.

    Attributes:
        edition: Number of the file's restarts when the piece was cut: a piece of an older edition is void.
    """

    fetched: "_Fetched"
    start: int
    end: int | None
    edition: int


class _Void(Exception):
    """The piece belongs to an edition of the file that is gone."""


class _Fetched:
    """One file on its way."""

    def __init__(self, file: RemoteFile, target: Path) -> None:
        self.file, self.target = file, target
        self.lock = threading.Lock()
        self.edition = 0
        self.pieces_left = 0
        self.finished_bytes = -1
        self.held = sum(end - start for start, end in stored_ranges(target, file.facts))
        self._partial: PartialFile | None = None

    @property
    def received(self) -> int:
        """Bytes that are there."""
        if self.finished_bytes >= 0:
            return self.finished_bytes
        partial = self._partial  # another thread may close it meanwhile
        return partial.received if partial else self.held

    def pieces(self) -> list[_Piece]:
        """Return what has to be read."""
        facts = self.file.facts
        if facts.ranges and facts.size:
            ranges = missing_ranges(stored_ranges(self.target, facts), facts.size, PIECE_BYTES)
            cut: list[tuple[int, int | None]] = [*ranges]
        else:
            cut = [(0, facts.size)]
        self.pieces_left = len(cut) or 1
        # A file whose last byte came just before a kill has nothing left to read, and is only finished.
        return [_Piece(self, start, end, self.edition) for start, end in cut or [(facts.size or 0, facts.size)]]

    def write(self, piece: _Piece, offset: int, chunk: bytes) -> None:
        """Store bytes of a piece."""
        with self.lock:
            if piece.edition != self.edition:
                raise _Void
            if piece.end is not None and offset + len(chunk) > piece.end:
                raise InputError(f"{self.file.shown}: the server sends more than the {piece.end} bytes it promised.")
            self._open().write(offset, chunk)

    def begin_again(self, piece: _Piece) -> None:
        """Throw away what came of a file that has to come in one go."""
        with self.lock:
            if piece.edition != self.edition:
                raise _Void
            self._open().restart()

    def commit(self) -> None:
        """Make what was received survive."""
        with self.lock:
            if self._partial:
                self._partial.commit()

    def done(self, piece: _Piece, end: int) -> None:
        """Note that a piece is complete; the last one finishes the file."""
        with self.lock:
            if piece.edition != self.edition:
                raise _Void
            self.pieces_left -= 1
            if self.pieces_left:
                return
            partial, self._partial = self._open(), None
            self.finished_bytes = end if self.file.facts.size is None else self.file.facts.size
        if partial.received != self.finished_bytes:
            raise AssertionError(
                f"{self.target}: {partial.received} of {self.finished_bytes} bytes after the last piece"
            )
        partial.finish(self.file.sha256, self.file.shown)

    def restart(self, piece: _Piece, reason: SourceChanged | RangesIgnored) -> list[_Piece]:
        """Begin a new edition of the file, and return its pieces; none if another connection has done so.

        Raises:
            InputError: The source changes again and again.
        """
        with self.lock:
            if piece.edition != self.edition:
                return []
            said = (
                "the server ignores ranges" if isinstance(reason, RangesIgnored) else f"the source changed ({reason})"
            )
            if self.edition >= _MOST_RESTARTS:
                raise InputError(
                    f"{self.file.shown}: {said}, {self.edition + 1} times while it was fetched. Use another source."
                )
            if isinstance(reason, RangesIgnored):
                self.file.facts = FileFacts(self.file.facts.size, self.file.facts.validator, ranges=False)
            else:
                self.file.refresh()
            print(f"{self.file.shown}: {said}; fetched from its beginning", flush=True)
            self.edition += 1
            self.close()
            self._open().restart()
            return self.pieces()

    def close(self) -> None:
        """Close the partial file."""
        if self._partial:
            self._partial.close()
            self._partial = None

    def _open(self) -> PartialFile:
        if self._partial is None:
            self._partial = PartialFile(self.target, self.file.facts)
        return self._partial


class _Transfer:
    """All files on their way at once."""

    def __init__(self, due: list[_Fetched], folder: Path, config: TransferConfig, progress: Progress) -> None:
        self._due, self._folder, self._config, self._progress = due, folder, config, progress
        self._pieces: queue.SimpleQueue[_Piece] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._received = 0
        self._counting = threading.Lock()

    def run(self) -> int:
        """Fetch everything and return the bytes received."""
        self._check_disk()
        for fetched in self._due:
            for piece in fetched.pieces():
                self._pieces.put(piece)
        sizes = [fetched.file.facts.size for fetched in self._due]
        total = None if None in sizes else -(-sum(size or 0 for size in sizes) // _MEGABYTE)
        name = self._due[0].file.name if len(self._due) == 1 else f"{len(self._due)} files"
        held = sum(fetched.held for fetched in self._due)
        self._progress.start(f"fetching {name}", total, "MB", held // _MEGABYTE)
        with ThreadPoolExecutor(self._config.connections, thread_name_prefix="fetch") as pool:
            workers = [pool.submit(self._work) for _ in range(self._config.connections)]
            try:
                self._watch(workers)
            finally:
                self._stop.set()
                wait(workers)
                for fetched in self._due:
                    fetched.commit()
                    fetched.close()
        if total is not None:
            self._progress.update(total)
        return self._received

    def _watch(self, workers: list[Future[None]]) -> None:
        """Report and commit until all connections are done; raise the first error."""
        committed = time.monotonic()
        pending = set(workers)
        while pending:
            done, pending = wait(pending, timeout=_LOOK_S)
            for worker in done:
                worker.result()
            self._progress.update(sum(fetched.received for fetched in self._due) // _MEGABYTE)
            if time.monotonic() - committed >= _COMMIT_S:
                for fetched in self._due:
                    fetched.commit()
                committed = time.monotonic()

    def _work(self) -> None:
        """Fetch pieces until there are none."""
        while not self._stop.is_set():
            try:
                piece = self._pieces.get_nowait()
            except queue.Empty:
                return
            try:
                self._fetch(piece)
            except _Void:
                continue
            except (SourceChanged, RangesIgnored) as reason:
                for again in self._restarted(piece, reason):
                    self._pieces.put(again)

    def _restarted(self, piece: _Piece, reason: SourceChanged | RangesIgnored) -> list[_Piece]:
        faults = Faults(piece.fetched.file.shown, self._config, self._stop)
        while True:
            try:
                return piece.fetched.restart(piece, reason)
            except PassingFault as fault:
                faults.met(fault)

    def _fetch(self, piece: _Piece) -> None:
        """Read one piece, from the byte reached after every fault."""
        fetched, file = piece.fetched, piece.fetched.file
        if piece.edition != fetched.edition:
            return
        faults = Faults(file.shown, self._config, self._stop)
        at = furthest = piece.start
        while not self._stop.is_set():
            before = at
            try:
                if piece.end is None or at < piece.end:
                    for chunk in file.read(at, piece.end):
                        if self._stop.is_set():
                            return
                        fetched.write(piece, at, chunk)
                        at += len(chunk)
                        with self._counting:
                            self._received += len(chunk)
                if piece.end is None or at == piece.end:
                    fetched.done(piece, at)
                    return
                if at == before or not file.facts.ranges:
                    raise PassingFault(f"the server ended after {at} of {piece.end} bytes")
            except PassingFault as fault:
                if at > furthest:
                    faults.forget()
                    furthest = at
                faults.met(fault)
                if not file.facts.ranges:
                    fetched.begin_again(piece)
                    at = 0

    def _check_disk(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        needed = sum((fetched.file.facts.size or 0) - fetched.held for fetched in self._due)
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise StageError(
                f"{self._folder} has {free / _MEGABYTE:,.0f} MB free, {needed / _MEGABYTE:,.0f} MB have to be fetched. Free some "
                "space, or use another workspace."
            )


def link_or_copy(source: Path, target: Path, progress: Progress) -> None:
    """Give a finished file of this machine a second name; copy it where that is impossible (another file system).

    Args:
        source: The file; a symbolic link (a hub cache holds them) is followed.
        target: Its new name; an existing file is replaced.
        progress: Told how far a copy is.
    """
    from components.storage.local_source import LocalFile

    source = source.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        fetch_files([LocalFile(source, target.name)], target.parent, TransferConfig(), progress)
