"""Sends a journal to MLflow: everything once, in order, whenever the server is there.

What was sent is sent again when a process ends between sending and noting it. MLflow takes a point, a parameter, a tag
or a file that it has already without a second one, and models are looked for before they are made.
"""

import fcntl
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from components.files import replace_text
from components.tracking.client import as_stage_error
from components.tracking.journal import Entry, JournalHeader, read_entries, read_header
from components.tracking.mlflow_run import MlflowRun, is_refusal

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SENT_NAME = "sent.json"
_LOCK_NAME = "lock"
_METRICS_PER_BATCH = 1000


class Sent(BaseModel):
    """How far a journal is sent.

    Attributes:
        mlflow_run_id: The run in MLflow; empty before anything was sent.
        offsets: Bytes that are sent of each file.
        steps: The last step of every metric that was sent.
        waiting: Files that MLflow could not store yet.
    """

    mlflow_run_id: str = ""
    offsets: dict[str, int] = {}
    steps: dict[str, int] = {}
    waiting: list[dict[str, Any]] = []


def is_sent(folder: Path) -> bool:
    """Tell whether MLflow has everything that a journal holds."""
    sent = _read_sent(folder)
    return not sent.waiting and next(iter(read_entries(folder, sent.offsets)), None) is None


def mlflow_run_of(folder: Path) -> str:
    """Return the MLflow run of a journal; empty before anything was sent."""
    return _read_sent(folder).mlflow_run_id


def send(folder: Path, client: "MlflowClient") -> None:
    """Send what is new in a journal; nothing where another process is sending it.

    Args:
        folder: The journal.
        client: Client of its MLflow.

    Raises:
        StageError: MLflow could not take everything; what it has not taken is sent next time.
    """
    with _locked(folder) as held:
        if not held or is_sent(folder):
            return
        header = read_header(folder)
        with as_stage_error(header.tracking_uri):
            _Sending(folder, header, client).run()


class _Sending:
    """One pass over a journal."""

    def __init__(self, folder: Path, header: JournalHeader, client: "MlflowClient") -> None:
        self.folder = folder
        self.sent = _read_sent(folder)
        self.target = MlflowRun(client, header, self.sent.mlflow_run_id or header.mlflow_run_id)

    def run(self) -> None:
        entries = read_entries(self.folder, self.sent.offsets)
        for is_metrics, group in itertools.groupby(entries, key=lambda entry: entry.kind == "metrics"):
            if is_metrics:
                self._send_metrics(group)
            else:
                for entry in group:
                    self._send_entry(entry)
        self._store_waiting()

    def _send_metrics(self, entries: Iterable[Entry]) -> None:
        """Send points in batches.

        A training that goes on from a checkpoint repeats the steps behind it, with the same losses: the point that was
        logged first stays the only one of its step.
        """
        batch: list[tuple[str, float, int, int]] = []
        done: list[Entry] = []
        for entry in entries:
            step = int(entry.values["step"])
            for name, value in entry.values["values"].items():
                if step > self.sent.steps.get(name, -1):
                    batch.append((name, value, entry.time_ms, step))
                    self.sent.steps[name] = step
            done.append(entry)
            if len(batch) >= _METRICS_PER_BATCH:
                self._send_batch(batch, done)
                batch, done = [], []
        self._send_batch(batch, done)

    def _send_batch(self, batch: list[tuple[str, float, int, int]], entries: list[Entry]) -> None:
        if not entries:
            return
        with _noted(f"{len(batch)} points"):
            self.target.find(entries[0].time_ms)
            for start in range(0, len(batch), _METRICS_PER_BATCH):
                self.target.log_metrics(batch[start : start + _METRICS_PER_BATCH])
        self._note(*entries)

    def _send_entry(self, entry: Entry) -> None:
        self.target.find(entry.time_ms)
        if entry.kind == "artifact":
            self.sent.waiting.append(entry.values)  # behind everything else: a full store must not hold up the curves
        elif entry.kind == "facts":
            new = {name: value for name, value in entry.values["values"].items() if name not in self.sent.steps}
            with _noted("the facts"):
                self.target.log_metrics([(name, value, entry.time_ms, 0) for name, value in new.items()])
            self.sent.steps.update(dict.fromkeys(new, 0))
        else:
            with _noted(entry.kind):
                self.target.act(entry)
        self._note(entry)

    def _store_waiting(self) -> None:
        """Store files; those that could not be stored wait for the next pass."""
        failure: Exception | None = None
        for artifact in list(self.sent.waiting):
            path = Path(artifact["path"])
            try:
                if path.is_file():
                    self.target.log_artifact(path, artifact["folder"], artifact["shown"])
                else:
                    print(f"WARNING: tracking: {path} is gone before MLflow had it", flush=True)
            except Exception as error:  # an artifact store has its own errors: S3's, the file system's
                failure = error
                continue
            self.sent.waiting.remove(artifact)
            self._note()
        if failure is not None:
            from mlflow.exceptions import MlflowException

            raise MlflowException(
                f"{len(self.sent.waiting)} files could not be stored, the last because of: {failure}"
            ) from failure

    def _note(self, *entries: Entry) -> None:
        self.sent.mlflow_run_id = self.target.mlflow_run_id
        self.sent.offsets.update({entry.file: entry.end for entry in entries})
        replace_text(self.folder / _SENT_NAME, self.sent.model_dump_json() + "\n", flush=True)


@contextmanager
def _noted(what: str) -> Iterator[None]:
    """Print what the server refuses for good, and go on: it would refuse it each time. Other errors pass."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if not is_refusal(error):
            raise
        print(f"WARNING: tracking: MLflow refused {what}: {error}", flush=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the right to send a journal, if nobody else has it."""
    with open(folder / _LOCK_NAME, "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _read_sent(folder: Path) -> Sent:
    path = folder / _SENT_NAME
    return Sent.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else Sent()
