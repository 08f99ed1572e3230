"""What a run has to say to MLflow, kept in its folder until MLflow has it.

A stage and its training processes write here and never wait for a server: `sending.py` reads what they wrote, now or
when the server is back. Each MLflow run has a folder of its own:

    <workspace>/runs/<run id>/tracking/<stage>-<key>/
        header.json                 the MLflow run that is meant
        <time>-<host>-<pid>.jsonl   entries of one process, in order
        sent.json                   how far they are sent

Every process writes a file of its own, so that two of them, on one node or on two, never write into one.
"""

import heapq
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.files import replace_text

HEADER_NAME = "header.json"
UNREADABLE = "unreadable"


class JournalHeader(BaseModel):
    """The MLflow run that a journal is about.

    Attributes:
        tracking_uri: MLflow tracking URI.
        experiment: Experiment of a run that has no parent.
        workspace: The pipeline run's workspace.
        name: The run's name in MLflow.
        mlflow_run_id: The run itself, where it is known from the beginning; else it is found by its tags, or made.
        parent_run_id: MLflow run of the pipeline run; empty for none.
        prefix: What a metric's name is prefixed with on the pipeline's run ("pretrain.").
        tags: Tags by which the run is found.
        more_tags: Tags that it gets as well.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tracking_uri: str
    experiment: str
    workspace: Path
    name: str
    mlflow_run_id: str = ""
    parent_run_id: str = ""
    prefix: str = ""
    tags: dict[str, str] = {}
    more_tags: dict[str, str] = {}


@dataclass(frozen=True)
class Entry:
    """Something to do in MLflow.

    Attributes:
        file: Name of the file that it stands in.
        end: Where it ends in the file, in bytes.
        kind: What is to be done.
        time_ms: When it was written, milliseconds since 1970.
        values: With what.
    """

    file: str
    end: int
    kind: str
    time_ms: int
    values: dict[str, Any]


class Journal:
    """Appends the entries of one process.

    Args:
        folder: The journal's folder, made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{time.time_ns():020d}-{socket.gethostname()}-{os.getpid()}.jsonl"

    def write(self, kind: str, **values: Any) -> None:
        """Append an entry; other processes see it when this returns."""
        line = json.dumps({"kind": kind, "time_ms": int(time.time() * 1000), **values}, default=str)
        with open(self._path, "a", encoding="utf-8") as stream:  # closed each time: NFS shows a file's end then
            stream.write(line + "\n")


def tracking_folder(workspace: Path, run_id: str) -> Path:
    """Return the folder that holds the journals of a pipeline run."""
    return workspace / "runs" / run_id / "tracking"


def journal_folder(workspace: Path, run_id: str, stage: str, key: str) -> Path:
    """Return the folder of a stage's journal."""
    return tracking_folder(workspace, run_id) / "-".join(part for part in (stage.replace("/", "-"), key) if part)


def write_header(folder: Path, header: JournalHeader) -> None:
    """Say which MLflow run a journal is about; the first to say so is right."""
    path = folder / HEADER_NAME
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(path, header.model_dump_json(indent=2) + "\n", flush=True)


def read_header(folder: Path) -> JournalHeader:
    """Return which MLflow run a journal is about."""
    return JournalHeader.model_validate_json((folder / HEADER_NAME).read_text(encoding="utf-8"))


def journals(folder: Path) -> list[Path]:
    """Return the journals of a pipeline run, the pipeline's own last: it ends when its stages have."""
    found = [path.parent for path in folder.glob(f"*/{HEADER_NAME}")]
    return sorted(found, key=lambda path: (not read_header(path).parent_run_id, path.name))


def read_entries(folder: Path, offsets: Mapping[str, int]) -> Iterator[Entry]:
    """Yield the entries of a journal behind what is sent, those of all its processes by their time.

    A last line that is still being written, or that a killed process left incomplete, is left where it is.
    """
    files = [_read_file(path, offsets.get(path.name, 0)) for path in sorted(folder.glob("*.jsonl"))]
    return heapq.merge(*files, key=lambda entry: entry.time_ms)


def _read_file(path: Path, offset: int) -> Iterator[Entry]:
    with open(path, "rb") as stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                values = json.loads(line)
            except ValueError:  # a full disk took half of it
                yield Entry(path.name, offset, UNREADABLE, 0, {})
                continue
            yield Entry(path.name, offset, values.pop("kind"), values.pop("time_ms"), values)
