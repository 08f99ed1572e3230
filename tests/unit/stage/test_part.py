"""Inputs of which a part is read: its content counts, whatever else its folder holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from components.context import RunContext
from components.errors import StageError
from components.runs.lineage import upstream_stages
from components.stage.part import part_of
from components.stage.runner import StageOutput, StageWork, run_stage


class _Settings(BaseModel):
    pass


def _context(workspace: Path, run_id: str = "run") -> RunContext:
    return RunContext(run_id=run_id, run_name="run", workspace=workspace)


def _source(workspace: Path, files: Mapping[str, str], run_id: str = "run") -> Path:
    def write(work: StageWork) -> Mapping[str, Any]:
        for name, text in files.items():
            (work.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (work.folder / name).write_text(text)
        return {}

    inputs = {name: text for name, text in files.items()}
    return run_stage(
        _context(workspace, run_id), stage="source", version=1, inputs=inputs, settings=_Settings(), body=write
    ).folder


def _reader(workspace: Path, source: Path, names: list[str], also: Any = None, run_id: str = "run") -> StageOutput:
    return run_stage(
        _context(workspace, run_id),
        stage="reader",
        version=1,
        inputs={"source": part_of(source, names, also)},
        settings=_Settings(),
        body=lambda work: {},
    )


FILES = {"a.txt": "a", "b.txt": "b", "c/1": "1", "c/2": "2", "cc/3": "3"}


@pytest.mark.parametrize(
    ("change", "reused"),
    [
        ({"b.txt": "x"}, True),
        ({"cc/3": "x"}, True),
        ({"d": "new"}, True),
        ({"a.txt": "x"}, False),
        ({"c/3": "new"}, False),
    ],
)
def test_what_was_read_decides(change: dict[str, str], reused: bool, tmp_path: Path) -> None:
    first = _reader(tmp_path, _source(tmp_path, FILES), ["a.txt", "c"])
    second = _reader(tmp_path, _source(tmp_path, FILES | change), ["a.txt", "c"])
    assert second.reused == reused
    assert (second.folder == first.folder) == reused


def test_what_else_is_read_decides_too(tmp_path: Path) -> None:
    source = _source(tmp_path, FILES)
    assert not _reader(tmp_path, source, ["a.txt"], {"count": 1}).reused
    assert not _reader(tmp_path, source, ["a.txt"], {"count": 2}).reused
    assert _reader(tmp_path, source, ["a.txt"], {"count": 1}).reused


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"has no none\.txt.*Run source again"):
        part_of(_source(tmp_path, FILES), ["none.txt"])


def test_a_report_shows_the_folder_that_this_run_read(tmp_path: Path) -> None:
    old = _source(tmp_path, FILES, "first")
    reader = _reader(tmp_path, old, ["a.txt"], run_id="first").folder
    assert [record.folder for record in upstream_stages(_context(tmp_path, "first"), [reader])] == [old, reader]
    new = _source(tmp_path, FILES | {"b.txt": "x"}, "second")
    again = _reader(tmp_path, new, ["a.txt"], run_id="second")
    assert again.reused
    assert [record.folder for record in upstream_stages(_context(tmp_path, "second"), [reader])] == [new, reader]
