"""MLflow's model registry: versions that point at folders, with what a person needs to trust them."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from components.errors import ConfigurationError, StageError
from components.tracking.client import connect
from components.tracking.models import find_logged_model
from components.tracking.tags import FOLDER_TAG, MODEL_TAG

_TAG_LIMIT = 5000
_MOST_VERSIONS = 1000


class RegistryConfig(BaseModel):
    """Where a model that passes its gates is registered.

    Attributes:
        name: Registered model in MLflow, created when missing; empty to register nothing.
        alias: Alias that is moved to the version, as "champion"; empty for none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="", pattern=r"^[^/:@]*$")
    alias: str = Field(default="", pattern=r"^[A-Za-z0-9_-]*$")


def register(
    tracking_uri: str,
    config: RegistryConfig,
    folder: Path,
    identity: str,
    run_id: str,
    tags: Mapping[str, str],
    description: str,
) -> str:
    """Register a folder as a model version; a model that is registered already only gets the alias.

    The version points at the folder: MLflow gets no copy of its gigabytes.

    Args:
        tracking_uri: MLflow tracking URI.
        config: Name and alias.
        folder: The model.
        identity: Stage and key of the folder: equal ones are one version.
        run_id: MLflow run that made it.
        tags: Scores and lineage.
        description: The same for people, Markdown.

    Returns:
        The version's number.

    Raises:
        ConfigurationError: There is no tracking.
        StageError: MLflow refused.
    """
    from mlflow.exceptions import MlflowException

    if not tracking_uri:
        raise ConfigurationError(
            "registry.name is set, but tracking is off (tracking.uri): models are registered in MLflow."
        )
    client = connect(tracking_uri)
    try:
        if not client.search_registered_models(f"name = '{config.name}'"):
            client.create_registered_model(config.name)
        versions = client.search_model_versions(f"name = '{config.name}'", max_results=_MOST_VERSIONS)
        number = next((item.version for item in versions if item.tags.get(MODEL_TAG) == identity), None)
        if number is None:
            all_tags = {**tags, MODEL_TAG: identity, FOLDER_TAG: str(folder)}
            number = client.create_model_version(
                config.name,
                _source(tracking_uri, folder),
                run_id=run_id,
                tags={name: value[:_TAG_LIMIT] for name, value in all_tags.items()},
                description=description,
                model_id=find_logged_model(client, client.get_run(run_id).info.experiment_id, identity) or None,
            ).version
        if config.alias:
            client.set_registered_model_alias(config.name, config.alias, number)
    except MlflowException as error:
        raise StageError(
            f"MLflow at {tracking_uri} did not register {config.name}: {error}. Check registry.name."
        ) from error
    return str(number)


def _source(tracking_uri: str, folder: Path) -> str:
    """Return the folder's URI; a server refuses the paths of its clients' disks under the name of files."""
    uri = folder.absolute().as_uri()
    return uri if tracking_uri.startswith("sqlite:") else "workspace" + uri.removeprefix("file")
