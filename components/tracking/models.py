"""Models as MLflow lists them: one per content, whichever runs made or reused it."""

from typing import TYPE_CHECKING

from components.tracking.tags import FOLDER_TAG, MODEL_TAG

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_MODEL_TYPE = "vision-language model"


def find_logged_model(client: "MlflowClient", experiment: str, identity: str) -> str:
    """Return the id of a model of an experiment, by stage and key of its folder; empty where there is none."""
    found = client.search_logged_models([experiment], f"tags.`{MODEL_TAG}` = '{identity}'", max_results=1)
    return str(found[0].model_id) if found else ""


def logged_model(
    client: "MlflowClient", experiment: str, mlflow_run_id: str, name: str, identity: str, folder: str
) -> str:
    """Return the id of a model, made when missing; MLflow gets no copy of its gigabytes.

    Args:
        client: MLflow client.
        experiment: Id of the run's experiment.
        mlflow_run_id: The run that made it.
        name: Name that is shown.
        identity: Stage and key of the folder.
        folder: Where it lies.
    """
    if model := find_logged_model(client, experiment, identity):
        return model
    tags = {MODEL_TAG: identity, FOLDER_TAG: folder}
    made = client.create_logged_model(experiment, name, mlflow_run_id, tags, model_type=_MODEL_TYPE)
    return str(client.finalize_logged_model(made.model_id, "READY").model_id)
