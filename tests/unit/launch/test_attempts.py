"""How often a job is tried, by what its attempts leave."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.launch.attempts import ATTEMPTS_NAME, keep_trying
from components.launch.classification import REASONS
from components.launch.errors import ClusterFailure, TrainingFailed
from components.launch.job import TrainingJob
from tests.support.launching import make_job

REASON = {reason.name: reason for reason in REASONS}
SIGNAL, MEMORY = "ended by a signal", "out of GPU memory"


class Folder:
    """What a job's attempts leave: each sets how far it came, and what is saved."""

    unit = "step"

    def __init__(self) -> None:
        self.now = self.checkpoint = 0
        self.complete = False

    def saved(self) -> int:
        return self.checkpoint

    def done(self) -> int:
        return self.now

    def finished(self) -> bool:
        return self.complete


def attempts_of(folder: Folder, outcomes: Iterator[tuple[str, int, int]]) -> Callable[[], None]:
    """Return an attempt: each call has the next outcome, (reason or "", last step, newest checkpoint)."""

    def attempt() -> None:
        name, folder.now, folder.checkpoint = next(outcomes)
        if name and REASON[name].verdict == "never":
            raise TrainingFailed(f"it failed: {name}")
        if name:
            raise ClusterFailure(f"it failed: {name}", REASON[name])

    return attempt


def run(tmp_path: Path, outcomes: list[tuple[str, int, int]], tries: int = 3, run_id: str = "run-1") -> int:
    """Run a job with these outcomes, and return how many were needed."""
    folder = Folder()
    job = make_job(tmp_path, run_id=run_id, progress=folder, tries=tries, poll_s=0.0001)
    left = iter(outcomes)
    keep_trying(job, attempts_of(folder, left))
    return len(outcomes) - len(list(left))


def test_any_number_of_attempts_while_checkpoints_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failures = [(SIGNAL, step + 5, step) for step in range(10, 200, 10)]
    assert run(tmp_path, [*failures, ("", 200, 200)], tries=1) == 20
    assert "pretrain starts again after step 10: ended by a signal (attempt 1 failed)" in capsys.readouterr().out


def test_attempts_without_a_new_checkpoint_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ClusterFailure, match=r"No new checkpoint in 3 attempts .*newest is of step 10"):
        run(tmp_path, [(SIGNAL, 15, 10), (SIGNAL, 18, 10), (SIGNAL, 12, 10), (SIGNAL, 19, 10), ("", 20, 20)])
    told = json.loads((tmp_path / "launch" / ATTEMPTS_NAME).read_text())
    assert [attempt["advanced"] for attempt in told["failed"]] == [True, False, False, False]


def test_a_checkpoint_begins_the_count_anew(tmp_path: Path) -> None:
    outcomes = [(SIGNAL, 1, 0), (SIGNAL, 2, 0), (SIGNAL, 12, 10), (SIGNAL, 13, 10), (SIGNAL, 14, 10), ("", 20, 20)]
    assert run(tmp_path, outcomes) == 6


def test_a_reason_that_stays_ends_at_once_and_is_told_again_in_the_same_run(tmp_path: Path) -> None:
    outcomes = [("the training diverged", 7, 0), ("", 20, 20)]
    for _ in range(2):
        with pytest.raises(TrainingFailed, match="it failed: the training diverged"):
            run(tmp_path, outcomes)
        outcomes = [("", 20, 20)]
    assert run(tmp_path, outcomes, run_id="run-2") == 1, "another run tries anew"


def test_out_of_memory_twice_at_the_same_step_stays(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"Twice at step 15: out of GPU memory\. Set memory\.recompute"):
        run(tmp_path, [(MEMORY, 15, 10), (MEMORY, 15, 10), ("", 20, 20)])
    assert run(tmp_path, [(MEMORY, 15, 10), (MEMORY, 17, 10), ("", 20, 20)], run_id="run-2") == 3
    assert run(tmp_path, [(MEMORY, 15, 10), (SIGNAL, 15, 10), ("", 20, 20)], run_id="run-3") == 3


def test_a_launcher_that_is_replaced_goes_on_counting(tmp_path: Path) -> None:
    with pytest.raises(StopIteration):  # the launcher is killed in its second attempt
        run(tmp_path, [(SIGNAL, 5, 0)])
    with pytest.raises(ClusterFailure, match="No new checkpoint in 3 attempts"):
        run(tmp_path, [(SIGNAL, 5, 0), (SIGNAL, 5, 0), ("", 20, 20)])


def test_what_is_finished_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed in the barrier behind the last step: everything is there."""
    folder = Folder()
    job = make_job(tmp_path, progress=folder)

    def attempt() -> None:
        folder.complete = True
        raise ClusterFailure("a node was lost", REASON[SIGNAL])

    keep_trying(job, attempt)
    assert "pretrain had left everything before: it is finished" in capsys.readouterr().out


def test_what_is_no_failure_of_the_job_is_passed_on(tmp_path: Path) -> None:
    def attempt() -> None:
        raise ClusterFailure("The Kubernetes API does not answer")

    with pytest.raises(ClusterFailure, match="does not answer$"):
        keep_trying(make_job(tmp_path), attempt)


@settings(max_examples=60, deadline=None)
@given(advances=st.lists(st.booleans(), max_size=12), tries=st.integers(1, 4))
def test_attempts_end_exactly_when_too_many_in_a_row_are_fruitless(
    tmp_path_factory: pytest.TempPathFactory, advances: list[bool], tries: int
) -> None:
    saved, outcomes = 0, []
    for number, advance in enumerate(advances):
        saved += 10 * advance
        outcomes.append((SIGNAL, 1000 + number, saved))
    rows = "".join("x" if advance else "." for advance in advances)
    ends = rows.find("." * tries)
    folder = tmp_path_factory.mktemp("job")
    if ends < 0:
        assert run(folder, [*outcomes, ("", 2000, 2000)], tries) == len(outcomes) + 1
    else:
        with pytest.raises(ClusterFailure):
            run(folder, [*outcomes, ("", 2000, 2000)], tries)
        assert len(json.loads((folder / "launch" / ATTEMPTS_NAME).read_text())["failed"]) == ends + tries


def test_job_without_progress_keeps_the_protocol(tmp_path: Path) -> None:
    job: TrainingJob = make_job(tmp_path)
    assert (job.progress.unit, job.progress.saved(), job.progress.done(), job.progress.finished()) == (
        "step",
        0,
        0,
        False,
    )
