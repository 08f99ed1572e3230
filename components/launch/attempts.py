"""Tries a job again: any number of times while checkpoints are made, a few times without, and not for a reason that stays."""

import datetime
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.launch.classification import Reason
from components.launch.errors import ClusterFailure, TrainingFailed
from components.launch.job import TrainingJob
from components.storage.atomic import write_text

ATTEMPTS_NAME = "attempts.json"
_LONGEST_WAIT_S = 300.0


class Attempt(BaseModel):
    """An attempt that failed.

    Attributes:
        ended: When, in ISO 8601, UTC.
        reason: Name of the reason.
        done (steps): How far it came.
        saved (steps): The newest checkpoint that it left.
        advanced: Whether a checkpoint was made in it.
    """

    model_config = ConfigDict(extra="forbid")

    ended: str
    reason: str
    done: int
    saved: int
    advanced: bool


class Attempts(BaseModel):
    """The failed attempts of one run at one job, kept beside it: a launcher that is replaced goes on counting.

    Attributes:
        run_id: The pipeline run.
        failed: Its attempts that failed, the oldest first.
        final: What the run was told at last; empty while it may try again.
    """

    model_config = ConfigDict(extra="forbid")

    run_id: str
    failed: list[Attempt] = []
    final: str = ""

    @property
    def fruitless(self) -> int:
        """Attempts in a row, up to the last, in which no checkpoint was made."""
        count = 0
        for attempt in reversed(self.failed):
            if attempt.advanced:
                break
            count += 1
        return count


def keep_trying(job: TrainingJob, attempt: Callable[[], None]) -> None:
    """Run a job until an attempt succeeds, or another one would not help.

    Args:
        job: The job; `cluster.job.tries` limits the attempts in a row that make no checkpoint.
        attempt: Runs the job once.

    Raises:
        TrainingFailed: The job fails for a reason that stays, or did so before in this run on a cluster.
        ClusterFailure: The attempts in a row without a new checkpoint are used up.
    """
    path = job.log_folder.parent / ATTEMPTS_NAME
    attempts = read_attempts(path, job.run_id)
    if attempts.final and job.config.backend != "local":
        raise TrainingFailed(attempts.final)
    saved = job.progress.saved()
    while True:
        try:
            return attempt()
        except TrainingFailed as error:
            attempts.final = str(error)
            _write(path, attempts)
            raise
        except ClusterFailure as error:
            if error.reason is None:
                raise
            if job.progress.finished():
                print(f"{error}\n{job.name} had left everything before: it is finished", flush=True)
                return None
            before, saved = saved, job.progress.saved()
            last = attempts.failed[-1] if attempts.failed else None
            attempts.failed.append(_attempt(error.reason, job.progress.done(), saved, advanced=saved > before))
            final = _final(job, error, error.reason, attempts, last)
            attempts.final = str(final) if final else ""
            _write(path, attempts)
            if final:
                raise final from error
            _wait(job, error, error.reason, attempts)


def read_attempts(path: Path, run_id: str) -> Attempts:
    """Return the failed attempts of a run; none of another run's, or where the file is missing or broken."""
    try:
        found = Attempts.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return Attempts(run_id=run_id)
    return found if found.run_id == run_id else Attempts(run_id=run_id)


def _attempt(reason: Reason, done: int, saved: int, *, advanced: bool) -> Attempt:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Attempt(ended=now, reason=reason.name, done=max(done, saved), saved=saved, advanced=advanced)


def _final(
    job: TrainingJob, error: ClusterFailure, reason: Reason, attempts: Attempts, last: Attempt | None
) -> TrainingFailed | ClusterFailure | None:
    """Return the error that ends the run, if another attempt would not help."""
    now = attempts.failed[-1]
    if reason.verdict == "once" and last is not None and last.reason == reason.name and now.done <= last.done:
        return TrainingFailed(f"{error}\nTwice at {job.progress.unit} {now.done}: {reason.name}. {reason.advice}")
    tries = job.cluster.job.tries
    if attempts.fruitless >= tries:
        return ClusterFailure(
            f"{error}\nNo new checkpoint in {tries} attempt{'s' if tries > 1 else ''} (cluster.job.tries); the newest is of "
            f"{job.progress.unit} {now.saved}. {reason.advice}"
        )
    return None


def _wait(job: TrainingJob, error: ClusterFailure, reason: Reason, attempts: Attempts) -> None:
    """Say that the job is tried again, and wait: longer after each attempt that made no checkpoint."""
    fruitless = attempts.fruitless
    wait_s = min(job.cluster.job.poll_s * 2.0**fruitless, _LONGEST_WAIT_S) if fruitless else 0.0
    saved = attempts.failed[-1].saved
    where = f"after {job.progress.unit} {saved}" if saved else "from the beginning, for nothing is saved yet"
    counted = f", {fruitless} of {job.cluster.job.tries} without a new checkpoint" if fruitless else ""
    when = f", in {wait_s:.0f} s" if wait_s >= 1 else ""
    print(error, flush=True)
    print(
        f"{job.name} starts again {where}{when}: {reason.name} (attempt {len(attempts.failed)} failed{counted})",
        flush=True,
    )
    time.sleep(wait_s)


def _write(path: Path, attempts: Attempts) -> None:
    write_text(path, attempts.model_dump_json(indent=2) + "\n")
