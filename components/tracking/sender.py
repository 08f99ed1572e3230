"""Who sends a run's journals, and when.

`vlm run` starts one process that sends for all stages of its run, so that MLflow is imported once. Elsewhere every
stage sees to it itself: a long one by such a process, a short one as it ends. A server that is away holds up neither.

Run as `python -m components.tracking.sender WORKSPACE RUN_ID [--others]`; it ends, having sent what it could, with its
input. What earlier runs of the workspace left is sent once a run, as it ends: to look for it costs the more the more
runs there are.
"""

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from components.errors import StageError
from components.tracking.client import check_reachable, connect
from components.tracking.journal import journals, read_header, tracking_folder
from components.tracking.sending import is_sent, send

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SENDER_VARIABLE = "VLM_TRACKING_SENDER"
"""Set where another process sends for this one."""

_INTERVAL_S = 5.0
_RETRY_INTERVAL_S = 20.0
_SHORT_STAGE_S = 10.0  # a shorter one has nothing to show while it runs
_PATIENCE_S = 30.0
_EXIT_WAIT_S = 60.0
_OTHERS = "--others"


class Sender:
    """Sends the journals of runs, and says once when MLflow goes away and once when it is back.

    Args:
        workspace: The workspace.
        run_id: The pipeline run.
    """

    def __init__(self, workspace: Path, run_id: str) -> None:
        self._own = tracking_folder(workspace, run_id)
        self._runs = workspace / "runs"
        self._clients: dict[str, MlflowClient] = {}
        self._away = False

    def send(self, others: bool = False) -> bool:
        """Send what there is.

        Args:
            others: Also what earlier runs of the workspace left.

        Returns:
            Whether MLflow has everything of this run.
        """
        waiting = [folder for folder in self._journals(others) if not is_sent(folder)]
        failures = self._failures(waiting)
        if failures and not self._away:
            print(
                f"WARNING: tracking: {failures[-1]} What is logged is kept in {self._own} and sent when MLflow takes it.",
                flush=True,
            )
        if self._away and not failures:
            print("tracking: MLflow is back and has everything", flush=True)
        self._away = bool(failures)
        return not failures and all(is_sent(folder) for folder in waiting if folder.parent == self._own)

    @property
    def away(self) -> bool:
        """Whether MLflow did not take everything the last time."""
        return self._away

    def finish(self, others: bool = False) -> bool:
        """Send the last; waits a while where another process is sending it.

        Args:
            others: Also what earlier runs of the workspace left.

        Returns:
            Whether MLflow has everything of this run.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while not self.send(others):
            if self._away or time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def _failures(self, folders: Sequence[Path]) -> list[StageError]:
        failures: list[StageError] = []
        silent: set[str] = set()
        for folder in folders:
            uri = read_header(folder).tracking_uri
            if uri in silent:
                continue
            try:
                if uri not in self._clients or self._away:
                    silent.add(uri)
                    check_reachable(uri)
                    silent.remove(uri)
                    self._clients.setdefault(uri, connect(uri))
                send(folder, self._clients[uri])
            except StageError as error:
                failures.append(error)
        return failures

    def _journals(self, others: bool) -> list[Path]:
        runs = [self._own]
        if others:
            runs = [folder for folder in self._runs.glob("*/tracking") if folder != self._own] + runs
        return [journal for run in runs for journal in journals(run)]


def main() -> int:
    """Send until the input ends."""
    sender = Sender(Path(sys.argv[1]), sys.argv[2])
    wait = _INTERVAL_S
    while not select.select([sys.stdin], [], [], wait)[0]:
        sender.send()
        wait = _RETRY_INTERVAL_S if sender.away else _INTERVAL_S
    sender.finish(others=_OTHERS in sys.argv)
    return 0


@contextmanager
def sender_process(workspace: Path, run_id: str, log: IO[bytes] | None = None) -> Iterator[None]:
    """Let a process of its own send for a run; as the block ends it sends the rest, and what earlier runs left.

    Args:
        workspace: The workspace.
        run_id: The pipeline run.
        log: Gets what the process prints; this process' output by default.
    """
    process = _start(workspace, run_id, others=True, log=log)
    try:
        yield
    finally:
        _end(process)


@dataclass
class Sending:
    """What becomes of what a block writes.

    Attributes:
        later: It is left to whoever sends for the run next, at the latest its last task.
    """

    later: bool = False


@contextmanager
def sending(workspace: Path, run_id: str, others: bool = False) -> Iterator[Sending]:
    """See to it that what the block writes into journals of a run is sent, unless another process does.

    Args:
        workspace: The workspace.
        run_id: The pipeline run.
        others: Also send what earlier runs of the workspace left.
    """
    what = Sending()
    if os.environ.get(SENDER_VARIABLE):
        yield what
        return
    processes: list[subprocess.Popen[bytes]] = []
    timer = threading.Timer(_SHORT_STAGE_S, lambda: processes.append(_start(workspace, run_id, others)))
    timer.daemon = True
    timer.start()
    try:
        yield what
    finally:
        timer.cancel()
        timer.join()
        if processes:
            _end(processes[0])
        elif not what.later:
            Sender(workspace, run_id).finish(others)


def _start(workspace: Path, run_id: str, others: bool, log: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "components.tracking.sender",
        str(workspace),
        run_id,
        *([_OTHERS] if others else []),
    ]
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH", "")])]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT if log is not None else None,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # Ctrl-C must not keep it from sending how the run ended
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the process send the rest; one that hangs at a server ends, and the journal waits for the next run."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.write(b"\n")  # a forked process may hold the pipe open: its end alone would not be seen
        process.stdin.close()
    try:
        process.wait(_EXIT_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
