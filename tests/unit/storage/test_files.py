"""Atomic writes and content keys."""

import math
import os
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.storage.atomic import open_atomic, write_json, write_text
from components.storage.checksum import content_key, sha256_file


def _write_half_and_fail(stream: IO[str]) -> None:
    stream.write("half of the new")
    raise RuntimeError("interrupted")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def test_failed_write_leaves_the_old_content_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "value.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), open_atomic(path, "w") as stream:
        _write_half_and_fail(stream)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["value.txt"]


def test_two_writers_of_one_process_do_not_meet(tmp_path: Path) -> None:
    """As launchers do that have the same process id, each in its own container."""
    path = tmp_path / "job.json"
    with open_atomic(path, "w") as first:
        first.write("the first writer's, ")
        with open_atomic(path, "w") as second:
            second.write("the second writer's")
        assert path.read_text() == "the second writer's"
        first.write("which ends last")
    assert path.read_text() == "the first writer's, which ends last"
    assert os.listdir(tmp_path) == ["job.json"]


def test_file_gets_the_mode_that_open_gives(tmp_path: Path) -> None:
    write_text(tmp_path / "atomic", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_refuses_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "facts.json", {"loss": math.nan})
    assert not (tmp_path / "facts.json").exists()


def test_sha256_is_the_published_test_vector(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.dictionaries(st.text(), _JSON, max_size=6))
def test_key_does_not_depend_on_the_order_of_settings(settings: dict[str, object]) -> None:
    assert content_key(settings) == content_key(dict(reversed(list(settings.items()))))


def test_key_changes_with_any_value() -> None:
    assert content_key({"a": 1, "b": [1, 2]}) != content_key({"a": 1, "b": [2, 1]})
