"""MLflow tracking: one run per pipeline run, one nested run per stage.

A stage's metrics are logged twice: on its own run under their name, and on the pipeline's run as `<stage>.<name>`, so
that two pipeline runs compare side by side in MLflow's table and charts. Everything goes through `MlflowClient` with
explicit run ids (no fluent global state), and MLflow is imported only when a tracking URI is set.

Tracking never decides over a training of hours: `open_pipeline_run` refuses an unreachable server before any work
starts; later failures to log are reported, kept, and tried again, and every curve is in `metrics.jsonl` anyway.
"""

import datetime
import getpass
import json
import logging
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.context import RunContext
from components.errors import StageError
from components.tracking.metrics_file import METRICS_FILE, read_metrics

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

KIND_TAG = "vlm.kind"
"""Tag of every run of ours: `PIPELINE` or `STAGE`."""

PIPELINE, STAGE = "pipeline", "stage"
RUN_ID_TAG = "vlm.run_id"
WORKSPACE_TAG = "vlm.workspace"
STAGE_TAG = "vlm.stage"
REUSED_TAG = "vlm.reused"
PARTIAL_TAG = "vlm.partial"
PARENT_TAG = "mlflow.parentRunId"
COMMIT_TAG = "mlflow.source.git.commit"

_VALUE_LIMIT = 6000  # MLflow's limit of a parameter value, in characters
_TAG_LIMIT = 8000
_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
_FLUSH_INTERVAL_S = 5.0
_RETRY_INTERVAL_S = 60.0
_PENDING_LIMIT = 200_000
_REPLAY_POINTS = 1000
_REACH_TIMEOUT_S = 10.0
# MLflow's pages then show trainings: charts, metrics, registered models.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
_PICTURES = {".html", ".png", ".jpg", ".jpeg", ".svg"}


class StageTracker:
    """Logs what a stage does; without a tracking URI it does nothing.

    Args:
        client: MLflow client, or None for no tracking.
        run_id: MLflow run of the stage.
        parent_run_id: MLflow run of the pipeline run; empty for none.
        prefix: What a metric's name is prefixed with on the pipeline's run ("pretrain.").
    """

    def __init__(
        self, client: "MlflowClient | None" = None, run_id: str = "", parent_run_id: str = "", prefix: str = ""
    ) -> None:
        self._client = client
        self.mlflow_run_id = run_id
        self.parent_run_id = parent_run_id if parent_run_id != run_id else ""
        self.prefix = prefix
        self._pending: list[Metric] = []
        self._next_flush = time.monotonic() + _FLUSH_INTERVAL_S

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters on the stage's run; nested ones are flattened with dots, long values are cut."""
        if self._client is None:
            return
        from mlflow.entities import Param

        # MLflow refuses to change a parameter: the first value of a name stands (a retried task meets its own).
        known = self._client.get_run(self.mlflow_run_id).data.params
        new = [
            Param(_name(key), _cut(value, _VALUE_LIMIT))
            for key, value in flatten(params).items()
            if _name(key) not in known
        ]
        for start in range(0, len(new), _PARAMS_PER_BATCH):
            self._client.log_batch(self.mlflow_run_id, params=new[start : start + _PARAMS_PER_BATCH])

    def log_metrics(self, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Log numbers of one step; sent in batches, at most every few seconds.

        Args:
            metrics: Name to number; nested mappings are flattened with dots, anything that is no number is left out.
            step: The x axis of the curve.
        """
        if self._client is None:
            return
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._pending += [Metric(_name(key), value, now_ms, int(step)) for key, value in _numbers(metrics).items()]
        if time.monotonic() >= self._next_flush or len(self._pending) >= _METRICS_PER_BATCH:
            self.flush()

    def log_artifact(self, path: Path | str, folder: str = "") -> None:
        """Copy a file to the stage's run; pages and pictures go to the pipeline's run too.

        Args:
            path: A file of at most some 100 MB (a checkpoint's path is a parameter, never an artifact).
            folder: Folder within the run's artifacts.
        """
        if self._client is None:
            return
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no artifact {path}")
        with _tolerated(f"store {path}"):
            self._client.log_artifact(self.mlflow_run_id, str(path), folder or None)
            if self.parent_run_id and Path(path).suffix.lower() in _PICTURES:
                parent_folder = "/".join(part for part in (self.prefix.rstrip("."), folder) if part)
                self._client.log_artifact(self.parent_run_id, str(path), parent_folder or None)

    def log_facts(self, facts: Mapping[str, Any]) -> None:
        """Log the numeric facts of a finished stage as metrics, except where a curve of that name exists.

        A fact `partial` says that the numbers are of a part: it becomes a tag of the stage's run, and of the pipeline's.
        """
        if self._client is None:
            return
        self.flush()
        if facts.get("partial"):
            self._mark_partial(str(facts["partial"]))
        with _tolerated("log the facts"):
            curves = self._client.get_run(self.mlflow_run_id).data.metrics
            self.log_metrics({name: value for name, value in _numbers(facts).items() if _name(name) not in curves})

    def _mark_partial(self, why: str) -> None:
        self.set_tag(PARTIAL_TAG, why)
        if self._client is not None and self.parent_run_id:
            with _tolerated(f"set the tag {PARTIAL_TAG}"):
                self._client.set_tag(
                    self.parent_run_id, f"{PARTIAL_TAG}.{self.prefix.rstrip('.')}", _cut(why, _TAG_LIMIT)
                )

    def log_reused(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Give a pipeline run that reused a finished folder the same curves and facts as the run that wrote it.

        Args:
            folder: The finished stage folder; the rows of its `metrics.jsonl` that have a `step` are replayed, thinned
                to about 1,000 points a curve (MLflow draws fewer).
            facts: The facts of its manifest.
        """
        if self._client is None:
            return
        self.set_tag(REUSED_TAG, "true")
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

    def set_tag(self, name: str, value: str) -> None:
        """Set a tag of the stage's run."""
        if self._client is not None:
            with _tolerated(f"set the tag {name}"):
                self._client.set_tag(self.mlflow_run_id, name, _cut(value, _TAG_LIMIT))

    def flush(self) -> None:
        """Send what waits. On failure it is kept for the next attempt, and the failure is printed."""
        if self._client is None or not self._pending:
            return
        self._next_flush = time.monotonic() + _FLUSH_INTERVAL_S
        try:
            while self._pending:
                batch = self._pending[:_METRICS_PER_BATCH]
                self._client.log_batch(self.mlflow_run_id, metrics=batch)
                if self.parent_run_id:
                    self._client.log_batch(
                        self.parent_run_id, metrics=[_renamed(metric, self.prefix) for metric in batch]
                    )
                del self._pending[: len(batch)]
        except Exception as error:
            self._next_flush = time.monotonic() + _RETRY_INTERVAL_S
            dropped = max(0, len(self._pending) - _PENDING_LIMIT)
            del self._pending[:dropped]
            _warn(
                f"could not log {len(self._pending)} metrics to MLflow, trying again later ({dropped} dropped): {error}"
            )

    def end(self, status: str) -> None:
        """Send what waits and end the stage's run with `FINISHED`, `FAILED` or `KILLED`."""
        if self._client is None:
            return
        self.flush()
        with _tolerated(f"end the run {self.mlflow_run_id} as {status}"):
            self._client.set_terminated(self.mlflow_run_id, status)
            if status != "FINISHED" and self.parent_run_id:
                self._client.set_terminated(self.parent_run_id, status)


@contextmanager
def stage_tracker(context: RunContext, stage: str, parameters: Mapping[str, Any]) -> Iterator[StageTracker]:
    """Track one stage: a run nested below the pipeline's run, FINISHED, FAILED or KILLED as the block ends.

    Where KFP's MLflow plugin has made a run for this task (`MLFLOW_RUN_ID` beside the same `MLFLOW_TRACKING_URI` in the
    environment), that run is used.

    Args:
        context: The pipeline run; an empty `tracking_uri` means no tracking.
        stage: Stage name, shown as the run's name.
        parameters: The stage's settings, logged as parameters.

    Yields:
        The stage's tracker.

    Raises:
        StageError: The tracking server can't be reached.
    """
    uri = context.tracking_uri
    if not uri:
        yield StageTracker()
        return
    client = connect(uri)
    with as_stage_error(uri):
        run_id = _injected_run(uri) or _create_stage_run(client, context, stage)
        tracker = StageTracker(client, run_id, context.mlflow_run_id, f"{stage.replace('/', '.')}.")
        tracker.set_tag(STAGE_TAG, stage)
        tracker.log_params(parameters)
    try:
        yield tracker
    except BaseException as error:
        if isinstance(error, Exception):
            tracker.set_tag("vlm.error", str(error) or repr(error))
        tracker.end("FAILED" if isinstance(error, Exception | SystemExit) else "KILLED")
        raise
    tracker.end("FINISHED")


def attach(tracking_uri: str, stage_run_id: str, parent_run_id: str, prefix: str) -> StageTracker:
    """Return a tracker for another process of a stage (the training's first rank) whose runs exist already.

    Call `flush` before the process ends; ending the runs stays with the stage. With an empty `tracking_uri` or
    `stage_run_id` the tracker does nothing.
    """
    if not tracking_uri or not stage_run_id:
        return StageTracker()
    return StageTracker(connect(tracking_uri), stage_run_id, parent_run_id, prefix)


def open_pipeline_run(
    tracking_uri: str,
    experiment: str,
    run_name: str,
    run_id: str,
    workspace: Path,
    parameters: Mapping[str, Any],
    git_commit: str = "",
    started: datetime.datetime | None = None,
) -> str:
    """Create (or find, for a retried task) the MLflow run of a pipeline run and log its configuration.

    Args:
        tracking_uri: MLflow tracking URI; a SQLite one keeps its artifacts in `<workspace>/mlartifacts`.
        experiment: Experiment name, created when missing.
        run_name: Name that is shown.
        run_id: Identifier of the pipeline run, kept as a tag.
        workspace: The run's workspace.
        parameters: The whole configuration.
        git_commit: Commit of the code, kept as a tag.
        started: When the pipeline run was started; now by default.

    Returns:
        The MLflow run id; empty when `tracking_uri` is empty.

    Raises:
        StageError: The server can't be reached, or the experiment is deleted.
    """
    if not tracking_uri:
        return ""
    _check_reachable(tracking_uri)
    client = connect(tracking_uri)
    with as_stage_error(tracking_uri):
        experiment_id = _experiment_id(client, tracking_uri, experiment, workspace)
        existing = client.search_runs(
            [experiment_id], f"tags.`{RUN_ID_TAG}` = '{run_id}' and tags.`{KIND_TAG}` = '{PIPELINE}'", max_results=1
        )
        if existing:
            mlflow_run_id = str(existing[0].info.run_id)
            client.update_run(mlflow_run_id, status="RUNNING")
        else:
            mlflow_run_id = (
                _injected_parent(client, tracking_uri)
                or client.create_run(experiment_id, start_time=_milliseconds(started), run_name=run_name).info.run_id
            )
        tags = {RUN_ID_TAG: run_id, KIND_TAG: PIPELINE, WORKSPACE_TAG: str(workspace), "mlflow.user": _user()}
        if git_commit:
            tags[COMMIT_TAG] = git_commit
        for name, value in tags.items():
            client.set_tag(mlflow_run_id, name, value)
        StageTracker(client, mlflow_run_id).log_params(parameters)
    return mlflow_run_id


def close_pipeline_run(tracking_uri: str, mlflow_run_id: str, status: str) -> None:
    """End the pipeline's run with `FINISHED`, `FAILED` or `KILLED`, and with it nested runs that are still open."""
    if not tracking_uri or not mlflow_run_id:
        return
    client = connect(tracking_uri)
    with as_stage_error(tracking_uri):
        experiment_id = client.get_run(mlflow_run_id).info.experiment_id
        nested = client.search_runs(
            [experiment_id], f"tags.`{PARENT_TAG}` = '{mlflow_run_id}' and attributes.status = 'RUNNING'"
        )
        for run in nested:
            client.set_terminated(run.info.run_id, "KILLED")
        client.set_terminated(mlflow_run_id, status)


def connect(tracking_uri: str) -> "MlflowClient":
    """Return an MLflow client without MLflow's own chatter: its telemetry, and its database migrations' log lines."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow waits minutes for a server that is gone; a stage must not.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from mlflow.tracking import MlflowClient

    for logger in ("alembic", "mlflow"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    with as_stage_error(tracking_uri):
        return MlflowClient(tracking_uri=tracking_uri)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one level, the names joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _create_stage_run(client: "MlflowClient", context: RunContext, stage: str) -> str:
    tags = {RUN_ID_TAG: context.run_id, KIND_TAG: STAGE, "mlflow.user": _user()}
    if context.mlflow_run_id:
        experiment_id = client.get_run(context.mlflow_run_id).info.experiment_id
        tags[PARENT_TAG] = context.mlflow_run_id
    else:
        experiment_id = _experiment_id(client, context.tracking_uri, context.experiment, context.workspace)
    if context.git_commit:
        tags[COMMIT_TAG] = context.git_commit
    run_id: str = client.create_run(experiment_id, run_name=stage, tags=tags).info.run_id
    return run_id


def _experiment_id(client: "MlflowClient", uri: str, name: str, workspace: Path) -> str:
    """Return the experiment's id, creating it when missing; a race with another run is lost in peace."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # A server decides itself where artifacts go; a bare database has nobody who could.
        location = (workspace / "mlartifacts").resolve().as_uri() if uri.startswith("sqlite:") else None
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise StageError(
            f"The MLflow experiment {name!r} on {uri} is deleted. Restore it (`mlflow experiments restore -x "
            f"{experiment.experiment_id}`) or choose another name in tracking.experiment."
        )
    return str(experiment.experiment_id)


def _milliseconds(time: datetime.datetime | None) -> int | None:
    return None if time is None else int(time.timestamp() * 1000)


def _injected_run(uri: str) -> str:
    """Return the run that KFP's MLflow plugin made for this task, if it made one on the same server."""
    if os.environ.get("MLFLOW_TRACKING_URI", "") != uri:
        return ""
    return os.environ.get("MLFLOW_RUN_ID", "")


def _injected_parent(client: "MlflowClient", uri: str) -> str:
    """Return the pipeline-level run of KFP's MLflow plugin, if the plugin made a run for this task."""
    run_id = _injected_run(uri)
    if not run_id:
        return ""
    return str(client.get_run(run_id).data.tags.get(PARENT_TAG, run_id))


def _check_reachable(uri: str) -> None:
    """Ask a tracking server once, so that a wrong address costs seconds rather than MLflow's minutes of retries.

    Raises:
        StageError: No answer, or the database's folder does not exist and can't be made.
    """
    if uri.startswith(("http://", "https://")):
        import requests

        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=_REACH_TIMEOUT_S)
        except requests.RequestException as error:
            raise StageError(
                f"The MLflow tracking server {uri} does not answer: {error}. Start it, correct tracking.uri, or switch tracking off "
                "with tracking.uri=none."
            ) from error
    elif uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def as_stage_error(uri: str) -> Iterator[None]:
    """Turn errors of MLflow's client, and of the connection to its server or database, into a `StageError`."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        raise StageError(
            f"MLflow at {uri} refused: {error}. Check tracking.uri, or switch tracking off with tracking.uri=none."
        ) from error


@contextmanager
def _tolerated(action: str) -> Iterator[None]:
    """Print a failure of the tracking server instead of ending a stage that is in the middle of its work."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        _warn(f"could not {action}: {error}")


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    flat = flatten(values).items()
    return {
        name: float(value) for name, value in flat if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _renamed(metric: "Metric", prefix: str) -> "Metric":
    from mlflow.entities import Metric

    return Metric(f"{prefix}{metric.key}"[:250], metric.value, metric.timestamp, metric.step)


def _name(key: str) -> str:
    """Return a name that MLflow accepts: word characters, dots, dashes, blanks, slashes; at most 250 characters."""
    return re.sub(r"[^\w.\- /]", "_", key)[:250]


def _cut(value: Any, limit: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id may have no name
        return str(os.getuid())


def _warn(message: str) -> None:
    print(f"WARNING: tracking: {message}", flush=True)
