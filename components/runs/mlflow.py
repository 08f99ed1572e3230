"""Runs in MLflow: pipeline runs by what people call them, their stages, and the files that stages left."""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import InputError
from components.runs.reference import matching_run
from components.tracking.tags import KIND_TAG, PARENT_TAG, PIPELINE, RUN_ID_TAG, STAGE_TAG, WORKSPACE_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_FINISHED = "FINISHED"
_MODELS_SCHEME = "models:/"
_MLFLOW_ID = re.compile(r"[0-9a-f]{32}")
_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_PAGE = 50
_SHOWN = 10


@dataclass(frozen=True)
class TrackedRun:
    """A pipeline run as MLflow has it.

    Attributes:
        entity: MLflow's own run.
    """

    entity: "Run"

    @property
    def mlflow_run_id(self) -> str:
        """MLflow's identifier."""
        return str(self.entity.info.run_id)

    @property
    def run_id(self) -> str:
        """Identifier of the pipeline run; MLflow's where it is none of ours."""
        return str(self.entity.data.tags.get(RUN_ID_TAG, self.mlflow_run_id))

    @property
    def name(self) -> str:
        """The name that people see."""
        return str(self.entity.info.run_name)

    @property
    def started(self) -> datetime.datetime:
        """When it was started, UTC."""
        return datetime.datetime.fromtimestamp(self.entity.info.start_time / 1000, datetime.UTC)

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return str(self.entity.info.status) == _FINISHED

    @property
    def workspace(self) -> Path | None:
        """Its workspace, which may be on another machine; None where it is none of ours."""
        workspace = self.entity.data.tags.get(WORKSPACE_TAG)
        return Path(workspace) if workspace else None


def is_mlflow_reference(reference: str) -> bool:
    """Tell whether a reference is MLflow's own: a run id or a registered model."""
    return reference.startswith(_MODELS_SCHEME) or _MLFLOW_ID.fullmatch(reference) is not None


def find_tracked_run(
    client: "MlflowClient", reference: str, finished_only: bool = False, besides: str = ""
) -> TrackedRun | None:
    """Find a pipeline run.

    Args:
        client: MLflow client.
        reference: A pipeline run's id, name or beginning of its id (see `reference.py`), an MLflow run id (of the pipeline's
            run or of one of its stages), or a registered model, "models:/NAME@ALIAS" or "models:/NAME/VERSION".
        finished_only: A name or a beginning stands for finished runs alone.
        besides: Id of a pipeline run that is not meant.

    Returns:
        The run, or None where MLflow has no such run.

    Raises:
        InputError: There is no such model, or it belongs to no run.
    """
    if reference.startswith(_MODELS_SCHEME):
        return TrackedRun(_run_of_model(client, reference))
    if _MLFLOW_ID.fullmatch(reference) and (run := _run_of_id(client, reference)):
        return TrackedRun(run)
    finished = f" and attributes.status = '{_FINISHED}'" if finished_only else ""
    for condition in (
        f"tags.`{RUN_ID_TAG}` = {_quoted(reference)}",
        f"attributes.run_name = {_quoted(reference)}{finished}",
        f"tags.`{RUN_ID_TAG}` LIKE {_quoted(f'{reference}%')}{finished}",
    ):
        for page in _pipeline_runs(client, condition):  # newest first, so that the first page with one has the newest
            found = matching_run(reference, [run for run in page if run.run_id != besides])
            if found is not None:
                return found
    return None


def newest_tracked_runs(client: "MlflowClient", finished_only: bool = False) -> list[TrackedRun]:
    """Return the newest pipeline runs, newest first, some of them where there are many."""
    condition = f"attributes.status = '{_FINISHED}'" if finished_only else ""
    return next(_pipeline_runs(client, condition), [])[:_SHOWN]


def stage_runs(client: "MlflowClient", pipeline_run: "Run") -> dict[str, "Run"]:
    """Return the stages of a pipeline run by name: of several runs of one stage the newest that finished."""
    found: dict[str, Run] = {}
    condition = f"tags.`{PARENT_TAG}` = '{pipeline_run.info.run_id}' and attributes.status = '{_FINISHED}'"
    for run in client.search_runs([pipeline_run.info.experiment_id], condition, order_by=["start_time DESC"]):
        found.setdefault(run.data.tags.get(STAGE_TAG, str(run.info.run_name)), run)
    return found


def stage_key(run: "Run") -> str:
    """Return the key of the folder that a stage's run left; empty for a run that is no stage of ours."""
    return str(run.data.params.get("key", "")) if STAGE_TAG in run.data.tags else ""


def fetch_artifact(client: "MlflowClient", run: "Run", name: str, folder: Path) -> Path | None:
    """Copy a file of a run's artifacts into a folder, and return its path; None where the run has no such file."""
    if name not in {item.path for item in client.list_artifacts(run.info.run_id)}:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return Path(client.download_artifacts(run.info.run_id, name, str(folder)))


def _pipeline_runs(client: "MlflowClient", condition: str) -> Iterator[list[TrackedRun]]:
    """Yield pages of the pipeline runs that fulfil a condition, newest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = " and ".join(part for part in (f"tags.`{KIND_TAG}` = '{PIPELINE}'", condition) if part)
    token = None
    while True:
        page = client.search_runs(experiments, query, order_by=["start_time DESC"], max_results=_PAGE, page_token=token)
        yield [TrackedRun(run) for run in page]
        token = page.token
        if not token:
            return


def _quoted(text: str) -> str:
    """Return a text as a value of MLflow's filters, which know two quotes and no escape."""
    if "'" in text and '"' in text:
        raise InputError(f"{text!r} has both kinds of quotes, which MLflow can't look for: name the run by its id.")
    return f'"{text}"' if "'" in text else f"'{text}'"


def _run_of_id(client: "MlflowClient", mlflow_run_id: str) -> "Run | None":
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    try:
        run = client.get_run(mlflow_run_id)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return None
        raise
    parent = run.data.tags.get(PARENT_TAG)
    return client.get_run(parent) if parent else run


def _run_of_model(client: "MlflowClient", reference: str) -> "Run":
    from mlflow.exceptions import MlflowException

    match = _MODEL.fullmatch(reference)
    if match is None:
        raise InputError(f"{reference!r} is no registered model: they are models:/NAME@ALIAS or models:/NAME/VERSION.")
    try:
        if match["alias"]:
            version = client.get_model_version_by_alias(match["name"], match["alias"])
        else:
            version = client.get_model_version(match["name"], match["version"])
        if not version.run_id:
            raise InputError(f"{reference} was registered without a run: name one that was.")
        return client.get_run(version.run_id)
    except MlflowException as error:
        raise InputError(
            f"MLflow does not have {reference!r}: {error.message}. Register a model first (registry.name), or name a run."
        ) from error
