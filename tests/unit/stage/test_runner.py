"""The workspace contract: done once, complete or not at all, reused by content."""

import errno
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from components.context import RunContext
from components.errors import InputError, StageError
from components.progress import Progress, progress_folder
from components.stage.manifest import MANIFEST_NAME, read_manifest
from components.stage.pointer import folder_of, publish
from components.stage.runner import StageOutput, StageWork, run_stage
from tests.support.waiting import wait_for


class _Settings(BaseModel):
    text: str = "hello"


class _Artifact:
    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.metadata: dict[str, Any] = {}


def _context(workspace: Path) -> RunContext:
    return RunContext(run_id="run", run_name="run", workspace=workspace)


def _write(work: StageWork) -> Mapping[str, Any]:
    (work.folder / "value.txt").write_text("content")
    return {"count": 1}


def _run(workspace: Path, settings: _Settings | None = None, body: Any = _write, **inputs: Path | str) -> StageOutput:
    return run_stage(
        _context(workspace), stage="stage", version=1, inputs=inputs, settings=settings or _Settings(), body=body
    )


def test_second_run_reuses_and_does_not_call_the_body(tmp_path: Path) -> None:
    first = _run(tmp_path)

    def never(_work: StageWork) -> Mapping[str, Any]:
        raise AssertionError("a finished stage ran again")

    second = _run(tmp_path, body=never)
    assert not first.reused
    assert second.reused
    assert second.folder == first.folder
    assert second.manifest.facts == {"count": 1}
    assert set(second.manifest.files) == {"value.txt"}


def test_other_settings_and_other_inputs_get_other_folders(tmp_path: Path) -> None:
    base = _run(tmp_path)
    assert _run(tmp_path, _Settings(text="other")).folder != base.folder
    assert _run(tmp_path, source="file:///a").folder != _run(tmp_path, source="file:///b").folder


def test_key_follows_the_inputs_key(tmp_path: Path) -> None:
    one = _run(tmp_path, _Settings(text="one"))
    two = _run(tmp_path, _Settings(text="two"))
    assert _run(tmp_path, upstream=one.folder).folder != _run(tmp_path, upstream=two.folder).folder
    assert _run(tmp_path, upstream=one.folder).reused


def test_failed_body_leaves_no_manifest_and_is_run_again(tmp_path: Path) -> None:
    def fail(work: StageWork) -> Mapping[str, Any]:
        (work.folder / "half.txt").write_text("half")
        raise InputError("the caption file x.json is empty")

    with pytest.raises(InputError):
        _run(tmp_path, body=fail)
    (record,) = progress_folder(tmp_path, "run").glob("*.json")
    assert json.loads(record.read_text())["message"] == "the caption file x.json is empty"
    assert not _run(tmp_path).reused


def test_unfinished_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(StageError, match="not a finished stage folder"):
        _run(tmp_path, upstream=tmp_path / "unfinished")


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_output_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    output = _run(tmp_path)
    path = output.folder / "value.txt"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text("c")
    with pytest.raises(StageError, match=r"value\.txt"):
        _run(tmp_path)


def test_full_disk_is_said_clearly(tmp_path: Path) -> None:
    def fill(_work: StageWork) -> Mapping[str, Any]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StageError, match="disk is full"):
        _run(tmp_path, body=fill)


def test_really_full_disk_leaves_nothing_finished(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")

    def fill(_work: StageWork) -> Mapping[str, Any]:
        with open(full, "w") as stream:
            stream.write("x" * 100_000)
        return {}

    with pytest.raises(StageError, match="disk is full"):
        _run(tmp_path, body=fill)
    assert not list(tmp_path.rglob(MANIFEST_NAME))


def _run_slowly(workspace: Path) -> None:
    def slow(work: StageWork) -> Mapping[str, Any]:
        (work.folder / "started").write_text("")
        time.sleep(60)
        return {}

    _run(workspace, body=slow)


def test_killed_stage_is_not_finished_and_frees_its_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_run_slowly, args=(tmp_path,))
    process.start()
    wait_for(lambda: any(tmp_path.rglob("started")))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    output = _run(tmp_path)
    assert not output.reused
    assert read_manifest(output.folder).facts == {"count": 1}


def test_progress_of_two_writers_is_always_whole(tmp_path: Path) -> None:
    path = tmp_path / "stage.json"

    def report(name: str) -> None:
        progress = Progress(name, path)
        progress.start("counting", None, "numbers")
        for number in range(200):
            progress.update(number, force=True)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(report, name) for name in ("first", "second")]:
            done.result()
    assert json.loads(path.read_text())["done"] == 199
    assert os.listdir(tmp_path) == ["stage.json"]


def test_pointer_carries_folder_and_facts(tmp_path: Path) -> None:
    output = _run(tmp_path / "workspace")
    artifact = _Artifact(tmp_path / "artifact")
    publish(artifact, output)
    assert folder_of(artifact) == output.folder
    assert artifact.metadata["facts"] == {"count": 1}


def test_pointer_to_an_unmounted_workspace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    path.write_text(json.dumps({"folder": "/nowhere/at/all"}))
    with pytest.raises(StageError, match="workspace volume"):
        folder_of(_Artifact(path))
