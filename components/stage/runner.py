"""Runs a stage once per content: finds finished work, or does it and writes the manifest last."""

import datetime
import errno
import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.context import RunContext
from components.errors import StageError, VlmError
from components.files import FileEntry
from components.progress import Progress, progress_folder
from components.stage.manifest import (
    MANIFEST_NAME,
    Manifest,
    check_files,
    list_files,
    read_manifest,
    write_manifest,
)
from components.stage.part import Part
from components.storage.checksum import content_key
from components.tracking.tracker import StageTracker, stage_tracker


@dataclass(frozen=True)
class StageOutput:
    """A finished stage folder.

    Attributes:
        folder: `<workspace>/<stage>/<key>`.
        manifest: Its manifest.
        reused: True when the folder was finished by an earlier run.
    """

    folder: Path
    manifest: Manifest
    reused: bool


@dataclass(frozen=True)
class StageWork:
    """What a stage's body gets.

    Attributes:
        folder: Where it writes; it may hold files of an interrupted run, which the body resumes from or replaces.
        tracker: Where it logs parameters, metrics and artifacts.
        progress: Where it reports how far it is.
        known_files: Files that the body has hashed itself, by their path relative to the folder: the manifest takes these
            checksums and does not read the files again.
    """

    folder: Path
    tracker: StageTracker
    progress: Progress
    known_files: dict[str, FileEntry] = field(default_factory=dict)


def input_identity(folder: Path) -> str:
    """Return what identifies a finished stage folder as another stage's input: stage name and key."""
    manifest = read_manifest(folder)
    return f"{manifest.stage}/{manifest.key}"


def run_stage(
    context: RunContext,
    *,
    stage: str,
    version: int,
    inputs: Mapping[str, Path | str | Part],
    settings: BaseModel,
    body: Callable[[StageWork], Mapping[str, Any]],
    artifacts: Sequence[str] = (),
    datasets: Mapping[str, str] | None = None,
    makes_model: bool = False,
) -> StageOutput:
    """Run `body` unless its output exists already.

    Args:
        context: The pipeline run.
        stage: Stage name, the folder below the workspace (`generate/captioning` for one of several uses of a stage).
        version: Raised whenever the same inputs and settings give another output.
        inputs: Name to a finished stage folder, to the part of one that is read, or to any string that identifies the input (a
            URI, a partition).
        settings: The stage's typed settings. All of them enter the key: leave out what does not change the output.
        body: Does the work in `StageWork.folder` and returns the facts for the manifest (JSON-serialisable).
        artifacts: Names of small files of the finished folder that the tracker stores, also when the folder is reused.
        datasets: Names of inputs that are datasets, to what they are read for ("training"): the tracker lists them.
        makes_model: The folder is a model, which the tracker lists.

    Returns:
        The finished folder.

    Raises:
        StageError: An input is not finished, the disk is full, or another process holds the same folder.
    """
    identities = {name: _identity(value) for name, value in inputs.items()}
    read_from = {name: value.origin for name, value in inputs.items() if isinstance(value, Part)}
    settings_json = settings.model_dump(mode="json")
    key = content_key({"stage": stage, "version": version, "inputs": identities, "settings": settings_json})
    folder = context.workspace / stage / key
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(
        stage, progress_folder(context.workspace, context.run_id) / f"{stage.replace('/', '-')}-{key}.json"
    )
    try:
        with _locked(folder), stage_tracker(context, stage, key, settings_json) as tracker:
            _log_datasets(tracker, inputs, datasets)
            if (folder / MANIFEST_NAME).is_file():
                output = _reuse(folder)
                tracker.log_reused(folder, output.manifest.facts)
                _store(tracker, output, artifacts, makes_model)
                print(f"{stage}: finished before, reused: {folder}", flush=True)
            else:
                plan = _Plan(stage, version, key, identities, read_from, settings_json)
                output = _perform(plan, body, StageWork(folder, tracker, progress))
                tracker.log_facts(output.manifest.facts)
                _store(tracker, output, artifacts, makes_model)
                print(f"{stage}: done in {output.manifest.duration_s:.1f} s: {folder}", flush=True)
    except BaseException as error:
        progress.finish("failed", str(error) if isinstance(error, VlmError) else repr(error))
        raise
    progress.finish("reused" if output.reused else "done")
    return output


@dataclass(frozen=True)
class _Plan:
    """What identifies the work: the manifest's first six fields."""

    stage: str
    version: int
    key: str
    inputs: dict[str, str]
    read_from: dict[str, str]
    settings: dict[str, Any]


def _reuse(folder: Path) -> StageOutput:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return StageOutput(folder, manifest, reused=True)


def _perform(plan: _Plan, body: Callable[[StageWork], Mapping[str, Any]], work: StageWork) -> StageOutput:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    start = time.monotonic()
    work.progress.start("starting", None, "")
    try:
        facts = dict(body(work))
        json.dumps(facts, allow_nan=False)  # a fact that JSON can't hold is a defect: fail here, not in a reader
        manifest = Manifest(
            **vars(plan),
            facts=facts,
            files=list_files(work.folder, work.known_files),
            started=started,
            duration_s=round(time.monotonic() - start, 3),
        )
        write_manifest(work.folder, manifest)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        free = shutil.disk_usage(work.folder).free
        raise StageError(
            f"The disk is full: stage {plan.stage} could not write below {work.folder} ({free} bytes free). "
            "Free some space and run again: finished stages are kept."
        ) from error
    return StageOutput(work.folder, manifest, reused=False)


def _identity(value: Path | str | Part) -> str:
    if isinstance(value, Part):
        return value.identity
    return input_identity(value) if isinstance(value, Path) else value


def _log_datasets(
    tracker: StageTracker, inputs: Mapping[str, Path | str | Part], datasets: Mapping[str, str] | None
) -> None:
    for name, context in (datasets or {}).items():
        folder = inputs[name]
        folder = folder.folder if isinstance(folder, Part) else folder
        if isinstance(folder, Path):
            manifest = read_manifest(folder)
            tracker.log_dataset(manifest.stage, manifest.key, str(folder), manifest.facts, context)


def _store(tracker: StageTracker, output: StageOutput, artifacts: Sequence[str], makes_model: bool) -> None:
    for name in artifacts:
        tracker.log_artifact(output.folder / name)
    if makes_model:
        manifest = output.manifest
        step = manifest.facts.get("step", 0)
        tracker.log_model(manifest.stage, f"{manifest.stage}/{manifest.key}", output.folder, step)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on the folder, so that two runs never write the same output at once."""
    with open(folder.with_name(folder.name + ".lock"), "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"waiting for another run that is writing {folder}", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
