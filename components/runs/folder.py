"""The folder of one run, `<workspace>/runs/<run id>`: what was asked, how it went, where its output lies.

run.json        name, times, state; of a local run also preset, overrides, the stages that will come and how many tasks do one
pipeline.yaml   the compiled pipeline of a local run
config.yaml     the settings in force
context.json    the run's context, as every stage gets it
log.txt         output of all stages
progress/       one file per stage (see components/progress.py)
kfp/            KFP's own artifacts: pointers to stage folders
"""

import datetime
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from components.errors import InputError
from components.files import read_hint
from components.progress import PARTS, progress_folder
from components.runs.rows import StageRow, merged
from components.storage.atomic import write_json
from components.yaml_text import parse_yaml

RUN_ID_VARIABLE = "VLM_RUN_ID"  # every process of a local run has it in its environment
RUN_FOLDER_VARIABLE = (
    "VLM_RUN_FOLDER"  # and this: runs of two workspaces may have one id, if they began in the same second
)
PACKAGE_NAME = "pipeline.yaml"
LOG_NAME = "log.txt"
RECORD_NAME = "run.json"
CONFIG_NAME = "config.yaml"
CONTEXT_NAME = "context.json"
KFP_WORKSPACE = "workspace"  # in kfp/: KFP would make a folder in /tmp, and leave it there
_OPENING = "open_run.json"  # progress of the task that every run begins with


class RunFolder:
    """The folder of one run.

    Args:
        workspace: Absolute workspace.
        run_id: The run's identifier.
    """

    def __init__(self, workspace: Path, run_id: str) -> None:
        self.workspace = workspace
        self.run_id = run_id
        self.path = workspace / "runs" / run_id
        self.log = self.path / LOG_NAME

    @property
    def mark(self) -> tuple[str, str]:
        """Environment variable and value by which the processes of a local run are known."""
        return RUN_FOLDER_VARIABLE, str(self.path.resolve())

    @property
    def name(self) -> str:
        """The name that people gave the run; empty before it is known."""
        return str(self.record().get("name") or self.context().get("run_name", ""))

    @property
    def started(self) -> datetime.datetime | None:
        """When the run was started, UTC, as it was recorded then; None where nothing did."""
        if started := self.record().get("started"):
            return datetime.datetime.fromisoformat(started)
        # Folders of cluster runs had no run.json once; their first task noted its time.
        began = read_hint(progress_folder(self.workspace, self.run_id) / _OPENING).get("began")
        return None if began is None else datetime.datetime.fromtimestamp(float(began), datetime.UTC)

    def record(self) -> dict[str, Any]:
        """Return `run.json`; empty where there is none."""
        return _read_json(self.path / RECORD_NAME)

    def update_record(self, **values: Any) -> None:
        """Change values of `run.json`."""
        write_json(self.path / RECORD_NAME, {**self.record(), **values})

    def context(self) -> dict[str, Any]:
        """Return the run's context; empty before `open_run` has finished."""
        return _read_json(self.path / CONTEXT_NAME)

    def settings(self) -> dict[str, Any]:
        """Return the settings in force; empty where they are not kept (any more)."""
        try:
            return dict(parse_yaml((self.path / CONFIG_NAME).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}

    def state(self) -> str:
        """Return the run's state; a local run whose process is gone without a word was interrupted."""
        record = self.record()
        if record.get("state") == "running" and "pid" in record and not psutil.pid_exists(int(record["pid"])):
            return "interrupted"
        return str(record.get("state", "unknown"))

    def seconds(self) -> float:
        """Return how long the run took, or has taken until now."""
        record = self.record()
        if "started" not in record:
            return 0.0
        ended = record.get("ended") or timestamp()
        return (
            datetime.datetime.fromisoformat(ended) - datetime.datetime.fromisoformat(record["started"])
        ).total_seconds()

    def stages(self, over: bool = False) -> list[StageRow]:
        """Return the run's stages in DAG order; the tasks of a stage are one.

        Args:
            over: The run has ended: what still says "running" was interrupted.
        """
        record = self.record()
        begun: dict[str, list[StageRow]] = {}
        for row in self.parts(over):
            begun.setdefault(row.stage.removesuffix(PARTS), []).append(row)
        tasks = record.get("tasks", {})
        rows = {stage: merged(found, tasks.get(stage, 1), over) for stage, found in begun.items()}
        known = [rows.pop(stage, StageRow(stage)) for stage in record.get("stages", [])]
        return known + list(rows.values())

    def parts(self, over: bool = False) -> list[StageRow]:
        """Return what has begun, every task of a stage by itself.

        Args:
            over: The run has ended: what still says "running" was interrupted.
        """
        paths = sorted(progress_folder(self.workspace, self.run_id).glob("*.json"))
        return [row for path in paths if (row := self._row(path, over)) is not None]

    def error(self) -> str:
        """Return why the run failed: the failed stage's message, else the last error or the last lines of the log."""
        failed = [row for row in self.stages() if row.state == "failed" and row.message]
        if failed:
            return f"{failed[0].stage}: {failed[0].message}"
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.is_file() else []
        errors = [index for index, line in enumerate(lines) if line.lstrip().startswith("ERROR: ")]
        if errors:
            return "\n".join(_message_lines(lines[errors[-1] :])).removeprefix("ERROR: ")
        return "\n".join(["The log ends with:", *[line for line in lines if line.strip()][-15:]])

    def _row(self, path: Path, over: bool) -> StageRow | None:
        record = read_hint(path)
        stage, state = str(record.get("stage", "")), str(record.get("state", ""))
        if not stage or not state:
            return None
        message = str(record.get("message", ""))
        # A stage that Ctrl-C or SIGTERM reached has time to say so, as an exception that nobody needs to read.
        if (state == "running" and over) or message.startswith("KeyboardInterrupt"):
            state, message = "interrupted", ""
        began = float(record.get("began", 0.0))
        until = time.time() if state == "running" else float(record.get("updated", began))
        key = "" if path.stem == stage else path.stem.rpartition("-")[2]
        folder = self.workspace / stage / key if key else None
        return StageRow(
            stage=stage,
            state=state,
            key=key,
            folder=folder if folder is not None and folder.is_dir() else None,
            began=began,
            seconds=max(0.0, until - began),
            activity=record.get("activity", ""),
            unit=record.get("unit", ""),
            done=int(record.get("done", 0)),
            total=record.get("total"),
            rate=float(record.get("rate", 0.0)),
            left_s=record.get("left_s"),
            fields=tuple(record.get("fields", {}).items()),
            message=message,
        )


def timestamp() -> str:
    """Return the present time as `run.json` has it: UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def new_run(workspace: Path, name: str) -> RunFolder:
    """Make the folder of a new run; its id is the name with the time."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1, 100):
        run = RunFolder(workspace, f"{slug}-{stamp}" if attempt == 1 else f"{slug}-{stamp}-{attempt}")
        try:
            run.path.mkdir(parents=True)
        except FileExistsError:
            continue
        return run
    raise InputError(f"Can't make a folder for a new run below {workspace / 'runs'}.")


def is_run_folder(path: Path) -> bool:
    """Tell whether a folder is that of a run: it has `run.json`, or `context.json`."""
    return (path / RECORD_NAME).is_file() or (path / CONTEXT_NAME).is_file()


def run_folders(workspace: Path) -> list[RunFolder]:
    """Return the runs of a workspace, in no order."""
    return [RunFolder(workspace, path.name) for path in (workspace / "runs").glob("*") if is_run_folder(path)]


def _message_lines(lines: Sequence[str]) -> list[str]:
    """Return a message and the lines that go on with it.

    KFP indents the output of a task, and a blank line follows it; elsewhere continuation lines are indented themselves.
    """
    indent = len(lines[0]) - len(lines[0].lstrip())
    goes_on = " " * (indent or 2)
    end = next(
        (index for index, line in enumerate(lines[1:], 1) if not line.strip() or not line.startswith(goes_on)),
        len(lines),
    )
    return [line[indent:] for line in lines[:end]]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}). If the run is not needed, remove {path.parent}.") from error
    return value if isinstance(value, dict) else {}
