"""The connection to an MLflow server or database, and its errors in our words.

MLflow costs more than a second of processor time to import: only functions that talk to it do so.
"""

import getpass
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import StageError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_REACH_TIMEOUT_S = 10.0
# MLflow's pages then show trainings (charts, metrics, registered models) and not conversations.
_EXPERIMENT_KIND = ("mlflow.experimentKind", "custom_model_development")


def connect(tracking_uri: str) -> "MlflowClient":
    """Return an MLflow client without MLflow's own chatter: telemetry, links to runs, log lines of its database's migrations."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # MLflow waits minutes for a server that is gone; we try again ourselves.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from mlflow.tracking import MlflowClient

    for logger in ("alembic", "mlflow"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    with as_stage_error(tracking_uri):
        return MlflowClient(tracking_uri=tracking_uri)


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


def check_reachable(uri: str) -> None:
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


def experiment_id(client: "MlflowClient", uri: str, name: str, workspace: Path) -> str:
    """Return the id of an experiment, made when missing; a race with another run is lost in peace.

    Args:
        client: MLflow client.
        uri: Its tracking URI; a SQLite one keeps its artifacts in `<workspace>/mlartifacts`.
        name: Name of the experiment.
        workspace: The run's workspace.

    Raises:
        StageError: The experiment is deleted.
    """
    from mlflow.exceptions import MlflowException

    kind, value = _EXPERIMENT_KIND
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # A server decides itself where artifacts go; a bare database has nobody who could.
        location = (workspace / "mlartifacts").resolve().as_uri() if uri.startswith("sqlite:") else None
        try:
            return str(client.create_experiment(name, artifact_location=location, tags={kind: value}))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise StageError(
            f"The MLflow experiment {name!r} on {uri} is deleted. Restore it (`mlflow experiments restore -x "
            f"{experiment.experiment_id}`) or choose another name in tracking.experiment."
        )
    if kind not in experiment.tags:  # somebody made it by hand; what a person chose stays
        client.set_experiment_tag(experiment.experiment_id, kind, value)
    return str(experiment.experiment_id)


def user() -> str:
    """Return who runs this, for MLflow's column of users."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id may have no name
        return str(os.getuid())
