"""A training that gets no further is noticed, and what its ranks say of themselves is shown."""

import os
import subprocess
import sys
import textwrap

import pytest

from components.launch.stall import StallWatch, where_ranks_stand


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def stacks_of_a_stuck_process() -> list[str]:
    """What Python's own watchdog prints."""
    code = """
        import faulthandler, threading, time
        faulthandler.dump_traceback_later(0.2)
        threading.Thread(target=time.sleep, args=(0.6,)).start()
        def wait_for_the_others():
            time.sleep(0.6)
        wait_for_the_others()
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    return result.stderr.splitlines()


def test_silence_is_measured_from_the_last_sign_of_life() -> None:
    clock, steps = Clock(), [0]
    watch = StallWatch(100, lambda: steps[0], clock)
    clock.now = 99
    assert watch.stalled() == ""
    watch.heard("[rank 0] pretrain: training 10/20 steps")
    clock.now = 198
    assert watch.stalled() == ""
    steps[0] = 12
    clock.now = 250
    assert watch.stalled() == "", "a step counts without a line"
    clock.now = 349
    assert watch.stalled() == ""
    clock.now = 351
    assert watch.stalled() == "no line and no step for 101 s (cluster.job.stall_s), after step 12"
    watch.rest()
    assert watch.stalled() == "", "a job that waits for pods is not stuck"


def test_stacks_are_no_sign_of_life() -> None:
    clock = Clock()
    watch = StallWatch(100, lambda: 0, clock)
    clock.now = 80
    for line in stacks_of_a_stuck_process():
        watch.heard(f"[rank 1] {line}")
    clock.now = 101
    assert watch.stalled()


def test_nothing_is_watched_without_a_limit() -> None:
    clock = Clock()
    watch = StallWatch(None, lambda: 0, clock)
    clock.now = 1e9
    assert watch.stalled() == ""


def test_each_rank_is_shown_with_its_last_lines_and_its_own_thread() -> None:
    stacks = [f"[rank 1] {line}" for line in stacks_of_a_stuck_process()]
    shown = where_ranks_stand(
        {
            "node 0": ["torchrun speaks", "[rank 0] step 1", "[rank 0] step 2", "[rank 0] step 3"],
            "node 1": ["[rank 1] step 3", *stacks],
        }
    )
    assert shown[0] == "rank 0 said last: step 2 | step 3"
    assert shown[1] == "rank 1 said last: step 3"
    assert "in wait_for_the_others" in shown[2]
    assert shown[-1] == "node 0 said last: torchrun speaks"


@pytest.mark.skipif(os.name != "posix", reason="ranks are POSIX processes")
def test_ranks_print_their_stacks_before_they_are_ended() -> None:
    """The training's own watch: armed by the launcher's variable, silent while steps come."""
    code = """
        import time
        from components.training.stuck import StackWatch
        watch = StackWatch()
        for _ in range(30):
            watch.step()
            time.sleep(0.05)
        print("steps are over", flush=True)
        time.sleep(1.5)
        watch.end()
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "VLM_STALL_S": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    before, _, after = result.stdout.partition("steps are over\n")
    assert before == ""
    assert after.startswith("Timeout (0:00:01)")
