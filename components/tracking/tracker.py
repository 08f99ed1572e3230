"""MLflow tracking: one run per pipeline run, one nested run per stage.

A stage's metrics are logged twice: on its own run under their name, and on the pipeline's run as `<stage>.<name>`, so
that two pipeline runs compare side by side in MLflow's table and charts. What is logged goes into the run's journal
(`journal.py`), so that no stage waits for a server or loses a point with one. A stage that is tried again, or goes on
from a checkpoint, goes on in the same MLflow run: it is known by pipeline run, stage and key.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.context import RunContext
from components.tracking.client import user
from components.tracking.journal import Journal, JournalHeader, journal_folder, write_header
from components.tracking.metrics_file import METRICS_FILE, read_metrics
from components.tracking.sender import sending
from components.tracking.tags import (
    COMMIT_TAG,
    ERROR_TAG,
    KEY_TAG,
    KIND_TAG,
    PARENT_TAG,
    PARTIAL_TAG,
    REUSED_TAG,
    RUN_ID_TAG,
    STAGE,
    STAGE_TAG,
    TAG_LIMIT,
    USER_TAG,
)

_VALUE_LIMIT = 6000  # MLflow's limit of a parameter value, in characters
_REPLAY_POINTS = 1000
_PICTURES = {".html", ".png", ".jpg", ".jpeg", ".svg"}
_DIGEST_LIMIT = 36


class StageTracker:
    """Logs what a stage does; without a journal it does nothing.

    Args:
        folder: The journal's folder, or None for no tracking.
        stage: Name of the stage, for tags of the pipeline's run.

    Attributes:
        reused: The stage has reused a finished folder.
    """

    def __init__(self, folder: Path | None = None, stage: str = "") -> None:
        self.folder = folder
        self._journal = Journal(folder) if folder is not None else None
        self._stage = stage.replace("/", ".")
        self.reused = False

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters on the stage's run; nested ones are flattened with dots, long values are cut."""
        self._write("params", values=parameter_texts(params))

    def log_metrics(self, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Log numbers of one step; of several numbers of a step and name MLflow keeps the first.

        Args:
            metrics: Name to number; nested mappings are flattened with dots, anything that is no number is left out.
            step: The x axis of the curve.
        """
        if values := _numbers(metrics):
            self._write("metrics", step=int(step), values=values)

    def log_artifact(self, path: Path | str, folder: str = "") -> None:
        """Copy a file to the stage's run; pages and pictures go to the pipeline's run too.

        Args:
            path: A file of at most some 100 MB (a checkpoint's path is a parameter, never an artifact). It is read when
                it is sent: it must stay where it is.
            folder: Folder within the run's artifacts.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if self._journal is None:
            return
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no artifact {path}")
        shown = Path(path).suffix.lower() in _PICTURES
        self._write("artifact", path=str(Path(path).absolute()), folder=folder, shown=shown)

    def log_facts(self, facts: Mapping[str, Any]) -> None:
        """Log the numeric facts of a finished stage as metrics, except where a curve of that name exists.

        A fact `partial` says that the numbers are of a part: it becomes a tag of the stage's run, and of the pipeline's.
        """
        if facts.get("partial"):
            why = str(facts["partial"])
            self.set_tags({PARTIAL_TAG: why}, {f"{PARTIAL_TAG}.{self._stage}": why})
        self._write("facts", values=_numbers(facts))

    def log_reused(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Give a pipeline run that reused a finished folder the same curves and facts as the run that wrote it.

        Args:
            folder: The finished stage folder; the rows of its `metrics.jsonl` that have a `step` are replayed, thinned
                to about 1,000 points a curve (MLflow draws fewer).
            facts: The facts of its manifest.
        """
        self.reused = True
        if self._journal is None:
            return
        self.set_tags({REUSED_TAG: "true"})
        curves: dict[str, dict[int, float]] = {}
        path = folder / METRICS_FILE
        for row in read_metrics(path) if path.is_file() else []:
            if "step" not in row:
                continue
            step = int(row.pop("step"))
            for name, value in _numbers(row).items():
                curves.setdefault(name, {})[step] = value
        for name, points in curves.items():
            stride = math.ceil(len(points) / _REPLAY_POINTS)
            steps = sorted(points)
            for step in sorted({*steps[::stride], steps[-1]}):
                self.log_metrics({name: points[step]}, step)
        self.log_facts(facts)

    def log_dataset(
        self, name: str, digest: str, source: str, facts: Mapping[str, Any], context: str = "training"
    ) -> None:
        """Say what a stage reads, for MLflow's column of datasets.

        Args:
            name: Name that is shown.
            digest: What identifies the content.
            source: Where it lies.
            facts: Counts of it.
            context: What it is read for.
        """
        profile = json.dumps(_numbers(facts))
        self._write(
            "dataset",
            name=name,
            digest=digest[:_DIGEST_LIMIT],
            source=json.dumps({"uri": source}),
            profile=profile,
            context=context,
        )

    def log_model(self, name: str, identity: str, folder: Path, step: int = 0) -> None:
        """Say that a stage has made a model, for MLflow's column and pages of models.

        Args:
            name: Name that is shown.
            identity: Stage and key of the folder: equal ones are one model.
            folder: Where it lies.
            step: How many steps it was trained.
        """
        self._write("model", name=name, identity=identity, folder=str(folder), step=step)

    def set_tags(self, tags: Mapping[str, str], shared: Mapping[str, str] | None = None) -> None:
        """Set tags of the stage's run, and of the pipeline's.

        Args:
            tags: Name to value.
            shared: Those of the pipeline's run.
        """
        self._write(
            "tags",
            values={name: _cut(value, TAG_LIMIT) for name, value in tags.items()},
            shared={name: _cut(value, TAG_LIMIT) for name, value in (shared or {}).items()},
        )

    def start(self) -> None:
        """Say that the stage begins, or goes on."""
        self._write("start")

    def end(self, status: str) -> None:
        """Say that the run ends, with `FINISHED`, `FAILED` or `KILLED`."""
        self._write("end", status=status)

    def _write(self, kind: str, **values: Any) -> None:
        if self._journal is not None:
            self._journal.write(kind, **values)


@contextmanager
def stage_tracker(context: RunContext, stage: str, key: str, parameters: Mapping[str, Any]) -> Iterator[StageTracker]:
    """Track one stage: a run nested below the pipeline's run, FINISHED, FAILED or KILLED as the block ends.

    Where KFP's MLflow plugin has made a run for this task (`MLFLOW_RUN_ID` beside the same `MLFLOW_TRACKING_URI` in the
    environment), that run is used.

    Args:
        context: The pipeline run; an empty `tracking_uri` means no tracking.
        stage: Stage name, shown as the run's name.
        key: Key of its work: with run and stage it says which MLflow run goes on.
        parameters: The stage's settings, logged as parameters.

    Yields:
        The stage's tracker.
    """
    if not context.tracking_uri:
        yield StageTracker()
        return
    folder = journal_folder(context.workspace, context.run_id, stage, key)
    write_header(folder, _header(context, stage, key))
    with sending(context.workspace, context.run_id) as what:
        tracker = StageTracker(folder, stage)
        tracker.start()
        tracker.log_params({"key": key, **parameters})
        try:
            yield tracker
        except BaseException as error:
            if isinstance(error, Exception):
                tracker.set_tags({ERROR_TAG: str(error) or repr(error)})
            tracker.end("FAILED" if isinstance(error, Exception | SystemExit) else "KILLED")
            raise
        tracker.end("FINISHED")
        what.later = tracker.reused  # to import MLflow costs more than all else that a reused stage does


def parameter_texts(params: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters as MLflow takes them: one level, names and values of its length."""
    return {_name(key): _cut(value, _VALUE_LIMIT) for key, value in flatten(params).items()}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one level, the names joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def injected_run(uri: str) -> str:
    """Return the run that KFP's MLflow plugin made for this task, if it made one on the same server."""
    if os.environ.get("MLFLOW_TRACKING_URI", "") != uri:
        return ""
    return os.environ.get("MLFLOW_RUN_ID", "")


def _header(context: RunContext, stage: str, key: str) -> JournalHeader:
    more = {PARENT_TAG: context.mlflow_run_id, COMMIT_TAG: context.git_commit, USER_TAG: user()}
    return JournalHeader(
        tracking_uri=context.tracking_uri,
        experiment=context.experiment,
        workspace=context.workspace,
        name=stage,
        mlflow_run_id=injected_run(context.tracking_uri),
        parent_run_id=context.mlflow_run_id,
        prefix=f"{stage.replace('/', '.')}.",
        tags={RUN_ID_TAG: context.run_id, KIND_TAG: STAGE, STAGE_TAG: stage, KEY_TAG: key},
        more_tags={name: value for name, value in more.items() if value},
    )


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    flat = flatten(values).items()
    return {
        _name(name): float(value)
        for name, value in flat
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _name(key: str) -> str:
    """Return a name that MLflow accepts: word characters, dots, dashes, blanks, slashes; at most 250 characters."""
    return re.sub(r"[^\w.\- /]", "_", key)[:250]


def _cut(value: Any, limit: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
