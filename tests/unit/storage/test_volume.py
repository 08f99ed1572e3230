"""Reads on a network volume: what passes is tried again, what lasts stops, what is missing is said to be missing."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import StageError
from components.storage.volume import may_pass, read_bytes, read_patiently
from tests.support.failing_volume import FailingVolume

PASSING = [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN, errno.ENOTCONN, errno.EREMOTEIO]
LASTING = [errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EMFILE, errno.ENOSPC]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


@pytest.mark.parametrize("number", PASSING)
def test_a_passing_error_costs_seconds(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    volume = FailingVolume(monkeypatch, file.parent, "file", OSError(number, os.strerror(number)), times=3)
    assert read_bytes(file) == b"content"
    assert len(volume.waited_s) == 3
    assert sorted(volume.waited_s) == volume.waited_s
    said = capsys.readouterr().out
    assert said.count(os.strerror(number)) == said.count(str(file)) // 2 == 3


@pytest.mark.parametrize("number", PASSING)
def test_an_error_that_does_not_pass_stops_after_seconds_and_condemns_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    volume = FailingVolume(monkeypatch, file.parent, "file", OSError(number, os.strerror(number)))
    with pytest.raises(StageError, match=rf"{file} can't be read: .*{os.strerror(number)}.*for 7\.5 s.*run again"):
        read_bytes(file)
    assert sum(volume.waited_s) == 7.5


@pytest.mark.parametrize("number", LASTING)
def test_what_waiting_does_not_help_stops_at_once(file: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    volume = FailingVolume(monkeypatch, file.parent, "file", OSError(number, os.strerror(number)))
    with pytest.raises(StageError, match=os.strerror(number)):
        read_bytes(file)
    assert not volume.waited_s


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, error in ((tmp_path / "none", FileNotFoundError), (tmp_path / "file" / "below", NotADirectoryError)):
        with pytest.raises(error):
            read_bytes(path)


def test_errors_without_a_number_pass_by_their_kind() -> None:
    assert may_pass(TimeoutError("timed out"))
    assert may_pass(ConnectionResetError())
    assert not may_pass(OSError("odd"))


@given(failures=st.lists(st.sampled_from(PASSING + LASTING), max_size=8))
def test_a_read_succeeds_if_and_only_if_few_passing_errors_come_before_it(failures: list[int]) -> None:
    left = iter(failures)

    def read() -> str:
        for number in left:
            raise OSError(number, os.strerror(number))
        return "content"

    passes = len(failures) <= 4 and not set(failures) & set(LASTING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.storage.volume.time.sleep", lambda _: None)
        if passes:
            assert read_patiently(read, Path("file")) == "content"
        else:
            with pytest.raises(StageError):
                read_patiently(read, Path("file"))
