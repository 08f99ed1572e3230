"""One writer at a time, also when the one before is lost, hangs, or comes back."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from components.errors import StageError
from components.storage.lease import Lease, LeaseTimes, newest_lease
from tests.support.waiting import PATIENCE_S

QUICK = LeaseTimes(beat_s=0.05, expires_s=0.6, patience_s=5, look_s=0.02)


def holder(folder: Path, code: str = "time.sleep(60)", wait: bool = True) -> "subprocess.Popen[str]":
    """A process that takes the folder, says so, and goes on with some code."""
    program = f"""
        import time
        from pathlib import Path
        from components.storage.lease import Lease, LeaseTimes
        lease = Lease(Path({str(folder)!r}), LeaseTimes(beat_s=0.05, expires_s=0.6, patience_s=30, look_s=0.02))
        lease.acquire()
        print("held", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program) + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    if wait:
        assert process.stdout.readline() == "held\n"
    return process


def as_from_another_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process see the holder as one of another machine: its process ids say nothing."""
    monkeypatch.setattr("components.storage.lease._place", lambda: "another machine")


def test_released_folder_is_taken_at_once(tmp_path: Path) -> None:
    first, second = Lease(tmp_path, QUICK), Lease(tmp_path, QUICK)
    first.acquire()
    first.release()
    second.acquire()
    second.check()
    second.release()
    assert newest_lease(tmp_path)[0] == 2
    assert len(list(tmp_path.iterdir())) == 1, "older numbers go"


def test_second_waits_until_the_first_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Lease(tmp_path, QUICK), Lease(tmp_path, QUICK)
    first.acquire()
    waiting = threading.Thread(target=second.acquire)
    waiting.start()
    time.sleep(1.5)
    assert waiting.is_alive(), "the first gives signs of life, for longer than a lost one is waited for"
    first.check()
    first.release()
    waiting.join(timeout=PATIENCE_S)
    assert not waiting.is_alive()
    second.release()
    assert f"{tmp_path} is held by process {os.getpid()} on" in capsys.readouterr().out


def test_killed_holder_of_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.kill()
    process.wait()
    began = time.monotonic()
    lease = Lease(tmp_path, LeaseTimes(expires_s=600))
    lease.acquire()
    assert time.monotonic() - began < PATIENCE_S
    lease.release()


def test_lost_holder_of_another_machine_is_followed_when_its_signs_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process = holder(tmp_path)
    as_from_another_machine(tmp_path, monkeypatch)
    lease = Lease(tmp_path, QUICK)
    taken = threading.Thread(target=lease.acquire)
    taken.start()
    time.sleep(1.0)
    assert taken.is_alive()
    process.kill()
    process.wait()
    taken.join(timeout=PATIENCE_S)
    assert not taken.is_alive()
    assert "without a word: it is taken over" in capsys.readouterr().out
    lease.release()


def test_holder_that_was_thought_lost_stops_when_it_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
while True:
    time.sleep(0.05)
    try:
        lease.check()
    except Exception as error:
        print(error)
        break
"""
    process = holder(tmp_path, code)
    as_from_another_machine(tmp_path, monkeypatch)
    process.send_signal(signal.SIGSTOP)
    lease = Lease(tmp_path, QUICK)
    lease.acquire()
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert "is being written by another training by now" in output
    lease.check()
    lease.release()


def test_patience_ends(tmp_path: Path) -> None:
    first = Lease(tmp_path, QUICK)
    first.acquire()
    try:
        with pytest.raises(
            StageError, match=r"is being written by another training, process \d+ on .*Wait for it or end it"
        ):
            Lease(tmp_path, LeaseTimes(expires_s=30, patience_s=0.3, look_s=0.02)).acquire()
    finally:
        first.release()


def test_of_many_at_once_one_writes_at_a_time(tmp_path: Path) -> None:
    """Each adds a line pair around its time in the folder; pairs never interleave."""
    code = (
        "log = open(Path({log!r}), 'a')\n"
        "log.write('in\\n'); log.flush(); time.sleep(0.1); log.write('out\\n'); log.flush()\n"
        "lease.release()\n"
    ).format(log=str(tmp_path / "log"))
    processes = [holder(tmp_path / "folder", code, wait=False) for _ in range(4)]
    for process in processes:
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 4


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null"])
def test_record_that_is_being_written_counts_as_held(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "writer-000007.lease").write_bytes(content)
    assert newest_lease(tmp_path) == (7, {})
    lease = Lease(tmp_path, QUICK)
    began = time.monotonic()
    lease.acquire()
    assert time.monotonic() - began >= QUICK.expires_s
    assert newest_lease(tmp_path)[0] == 8
    lease.release()
