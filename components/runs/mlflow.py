"""Finds runs in MLflow: pipeline runs by what people call them, their stages, and the files that stages left."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import ConfigurationError
from components.tracking.tracker import RUN_ID_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

STAGE_TAG = "vlm.stage"
KIND_TAG = "vlm.kind"
WORKSPACE_TAG = "vlm.workspace"
MODELS_SCHEME = "models:/"

_PARENT_TAG = "mlflow.parentRunId"
_MLFLOW_ID = re.compile(r"[0-9a-f]{32}")
_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def find_pipeline_run(client: "MlflowClient", reference: str, setting: str, besides: str = "") -> "Run":
    """Find a pipeline run.

    Args:
        client: MLflow client.
        reference: An MLflow run id (of the pipeline's run or of one of its stages), a pipeline run's id or name (the
            newest finished run of that name), or a registered model, "models:/NAME@ALIAS" or "models:/NAME/VERSION".
        setting: What the reference was given as, for errors.
        besides: MLflow run id that is not meant: a run is not its own predecessor.

    Raises:
        ConfigurationError: There is no such run or model.
    """
    from mlflow.exceptions import MlflowException

    if reference.startswith(MODELS_SCHEME):
        return _run_of_model(client, reference, setting)
    if _MLFLOW_ID.fullmatch(reference):
        try:
            run = client.get_run(reference)
        except MlflowException as error:
            raise _unknown(client, reference, setting) from error
        parent = run.data.tags.get(_PARENT_TAG)
        return client.get_run(parent) if parent else run
    quoted = reference.replace("'", "")
    for condition in (
        f"tags.`{RUN_ID_TAG}` = '{quoted}'",
        f"attributes.run_name = '{quoted}' and attributes.status = 'FINISHED'",
    ):
        found = [run for run in _pipeline_runs(client, condition) if run.info.run_id != besides]
        if found:
            return found[0]
    raise _unknown(client, reference, setting)


def stage_runs(client: "MlflowClient", pipeline_run: "Run") -> dict[str, "Run"]:
    """Return the stages of a pipeline run by name: of several runs of one stage the newest that finished."""
    found: dict[str, Run] = {}
    condition = f"tags.`{_PARENT_TAG}` = '{pipeline_run.info.run_id}' and attributes.status = 'FINISHED'"
    for run in client.search_runs([pipeline_run.info.experiment_id], condition, order_by=["start_time DESC"]):
        found.setdefault(run.data.tags.get(STAGE_TAG, str(run.info.run_name)), run)
    return found


def stage_folder(run: "Run", workspace: Path) -> Path | None:
    """Return where a stage's folder lies below a workspace; None for a run without a key."""
    key = run.data.params.get("key", "")
    return workspace / run.data.tags[STAGE_TAG] / key if key and STAGE_TAG in run.data.tags else None


def fetch_artifact(client: "MlflowClient", run: "Run", name: str, folder: Path) -> Path | None:
    """Copy a file of a run's artifacts into a folder, and return its path; None where the run has no such file."""
    if name not in {item.path for item in client.list_artifacts(run.info.run_id)}:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return Path(client.download_artifacts(run.info.run_id, name, str(folder)))


def _pipeline_runs(client: "MlflowClient", condition: str) -> "list[Run]":
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(
        client.search_runs(
            experiments, f"tags.`{KIND_TAG}` = 'pipeline' and {condition}", order_by=["start_time DESC"], max_results=10
        )
    )


def _run_of_model(client: "MlflowClient", reference: str, setting: str) -> "Run":
    from mlflow.exceptions import MlflowException

    match = _MODEL.fullmatch(reference)
    if match is None:
        raise ConfigurationError(
            f"{setting} is {reference!r}: a registered model is models:/NAME@ALIAS or models:/NAME/VERSION."
        )
    try:
        if match["alias"]:
            version = client.get_model_version_by_alias(match["name"], match["alias"])
        else:
            version = client.get_model_version(match["name"], match["version"])
        if not version.run_id:
            raise ConfigurationError(
                f"{setting} is {reference}, which was registered without a run: name one that was."
            )
        return client.get_run(version.run_id)
    except MlflowException as error:
        raise ConfigurationError(
            f"{setting} is {reference!r}, which MLflow does not have: {error.message}. Register a model first "
            "(registry.name), or leave the baseline out."
        ) from error


def _unknown(client: "MlflowClient", reference: str, setting: str) -> ConfigurationError:
    known = [str(run.info.run_name) for run in _pipeline_runs(client, "attributes.status = 'FINISHED'")]
    return ConfigurationError(
        f"{setting} is {reference!r}, but MLflow has no such pipeline run. Finished ones, newest first: "
        f"{', '.join(dict.fromkeys(known)) or 'none'}."
    )
