"""One run in MLflow, found or made, and what can be done to it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.tracking.client import experiment_id
from components.tracking.journal import Entry, JournalHeader
from components.tracking.models import logged_model
from components.tracking.tags import (
    COMMIT_TAG,
    ERROR_TAG,
    PARENT_TAG,
    SOURCE_TAG,
    SOURCE_TYPE_TAG,
)

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

_PARAMS_PER_BATCH = 100
_NAME_LIMIT = 250
_RUNNING = "RUNNING"
_MAY_PASS = (401, 403, 408, 429)


def is_refusal(error: "MlflowException") -> bool:
    """Tell whether a server would answer the same to the same request: it is wrong, and not the server busy or away."""
    status = error.get_http_status_code()
    return 400 <= status < 500 and status not in _MAY_PASS


class MlflowRun:
    """A stage's run, or the pipeline's own.

    Args:
        client: MLflow client.
        header: Which run is meant.
        mlflow_run_id: The run, if it is known.
    """

    def __init__(self, client: "MlflowClient", header: JournalHeader, mlflow_run_id: str) -> None:
        self.client = client
        self.header = header
        self.mlflow_run_id = mlflow_run_id
        self._found = False
        # A run of KFP's plugin is not its own parent.
        self.parent_run_id = header.parent_run_id if header.parent_run_id != mlflow_run_id else ""

    def find(self, started_ms: int) -> None:
        """Find the run by its tags, or make it with this start."""
        if self._found:
            return
        parent = self.client.get_run(self.parent_run_id) if self.parent_run_id else None
        tags = {**self.header.tags, **self.header.more_tags, **_inherited(parent, self.header)}
        if self.mlflow_run_id:
            if parent is not None:
                self._set_missing_tags(tags)
        else:
            experiment = self._experiment(parent)
            query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in self.header.tags.items())
            found = self.client.search_runs([experiment], query, max_results=1)
            run = found[0] if found else self.client.create_run(experiment, started_ms, tags, self.header.name)
            self.mlflow_run_id = str(run.info.run_id)
        self._found = True

    def act(self, entry: Entry) -> None:
        """Do what an entry says.

        Raises:
            MlflowException: The server refuses it, or is away.
        """
        values = entry.values
        match entry.kind:
            case "start":
                self._start(entry.time_ms)
            case "end":
                self._end(values["status"], entry.time_ms)
            case "params":
                self.log_params(values["values"])
            case "tags":
                self.set_tags(self.mlflow_run_id, values["values"])
                if self.parent_run_id:
                    self.set_tags(self.parent_run_id, values["shared"])
            case "dataset":
                self._log_dataset(values)
            case "model":
                self._log_model(values)
            case other:
                print(f"WARNING: tracking: left out an {other} entry in {entry.file} of {self.header.name}", flush=True)

    def log_metrics(self, points: Sequence[tuple[str, float, int, int]]) -> None:
        """Log points (name, value, milliseconds since 1970, step), on the pipeline's run with the stage's name before theirs."""
        from mlflow.entities import Metric

        named = [(name, (value, time_ms, step)) for name, value, time_ms, step in points]
        for run_id, prefix in ((self.mlflow_run_id, ""), (self.parent_run_id, self.header.prefix)):
            if run_id and points:
                self.client.log_batch(
                    run_id, metrics=[Metric(f"{prefix}{name}"[:_NAME_LIMIT], *at) for name, at in named]
                )

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of this run, or of the pipeline's, in one request."""
        from mlflow.entities import RunTag

        if tags:
            self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def log_artifact(self, path: Path, folder: str, shown: bool) -> None:
        """Store a file; one that is to be shown goes to the pipeline's run too."""
        self.client.log_artifact(self.mlflow_run_id, str(path), folder or None)
        if shown and self.parent_run_id:
            parent_folder = "/".join(part for part in (self.header.prefix.rstrip("."), folder) if part)
            self.client.log_artifact(self.parent_run_id, str(path), parent_folder or None)

    def _start(self, time_ms: int) -> None:
        """Let the run go on, and the pipeline's run too if it had ended before: the stage is tried again."""
        for run_id in (self.mlflow_run_id, self.parent_run_id):
            if run_id:
                run = self.client.get_run(run_id)
                if run.info.status != _RUNNING and (run.info.end_time or 0) <= time_ms:
                    self.client.update_run(run_id, status=_RUNNING)
                if ERROR_TAG in run.data.tags:
                    self.client.delete_tag(run_id, ERROR_TAG)

    def _end(self, status: str, time_ms: int) -> None:
        if not self.header.parent_run_id:
            end_pipeline_run(self.client, self.mlflow_run_id, status, time_ms)
        else:
            self.client.set_terminated(self.mlflow_run_id, status, time_ms)

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log parameters; MLflow refuses to change one, so the first value stands (a retried task meets its own)."""
        from mlflow.entities import Param

        known = self.client.get_run(self.mlflow_run_id).data.params
        new = [Param(name, value) for name, value in params.items() if name not in known]
        for start in range(0, len(new), _PARAMS_PER_BATCH):
            self.client.log_batch(self.mlflow_run_id, params=new[start : start + _PARAMS_PER_BATCH])

    def _set_missing_tags(self, tags: Mapping[str, str]) -> None:
        known = self.client.get_run(self.mlflow_run_id).data.tags
        self.set_tags(self.mlflow_run_id, {name: value for name, value in tags.items() if name not in known})

    def _log_dataset(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            values["name"], values["digest"], "local", values["source"], schema=None, profile=values["profile"]
        )
        context = InputTag("mlflow.data.context", values["context"])
        for run_id in (self.mlflow_run_id, self.parent_run_id):
            if run_id:
                self.client.log_inputs(run_id, [DatasetInput(dataset, [context])])

    def _log_model(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import LoggedModelOutput

        model = logged_model(
            self.client,
            self._experiment(None),
            self.mlflow_run_id,
            values["name"],
            values["identity"],
            values["folder"],
        )
        for run_id in (self.mlflow_run_id, self.parent_run_id):
            if run_id:
                run = self.client.get_run(run_id)
                known = run.outputs.model_outputs if run.outputs else []
                if model not in {output.model_id for output in known}:
                    self.client.log_outputs(run_id, [LoggedModelOutput(model, step=int(values["step"]))])

    def _experiment(self, parent: "Run | None") -> str:
        if parent is not None:
            return str(parent.info.experiment_id)
        if self.mlflow_run_id:
            return str(self.client.get_run(self.mlflow_run_id).info.experiment_id)
        return experiment_id(self.client, self.header.tracking_uri, self.header.experiment, self.header.workspace)


def end_pipeline_run(client: "MlflowClient", mlflow_run_id: str, status: str, time_ms: int | None = None) -> None:
    """End the pipeline's run, and with it nested runs that are still open."""
    experiment = client.get_run(mlflow_run_id).info.experiment_id
    nested = client.search_runs(
        [experiment], f"tags.`{PARENT_TAG}` = '{mlflow_run_id}' and attributes.status = '{_RUNNING}'"
    )
    for run in nested:
        client.set_terminated(run.info.run_id, "KILLED", time_ms)
    client.set_terminated(mlflow_run_id, status, time_ms)


def _inherited(parent: "Run | None", header: JournalHeader) -> dict[str, str]:
    """Return where a stage comes from: MLflow's pages show it for every run."""
    if parent is None:
        return {}
    tags = {name: parent.data.tags[name] for name in (SOURCE_TYPE_TAG, COMMIT_TAG) if name in parent.data.tags}
    if SOURCE_TAG in parent.data.tags:
        tags[SOURCE_TAG] = f"{parent.data.tags[SOURCE_TAG]}, {header.name}"
    return tags
