"""Submits a run to a Kubeflow Pipelines installation."""

import contextlib
import hashlib
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import ConfigurationError
from components.runs.kfp import KfpRuns
from pipelines.compile import compile_pipeline

if TYPE_CHECKING:
    from pipelines.config import RunConfig

_VERSION_DIGITS = 12
_PAGE = 100


def submit(runs: KfpRuns, config: "RunConfig", name: str, service_account: str = "") -> str:
    """Upload the compiled pipeline as a version named by its content, and start a run.

    Args:
        runs: Where.
        config: The validated configuration.
        name: Name of the pipeline, under which its versions are found.
        service_account: Service account of the run's pods; empty for KFP's own.

    Returns:
        The run's id.

    Raises:
        ConfigurationError: The configuration can't run on a cluster.
        StageError: KFP refuses.
    """
    _check(config)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        compile_pipeline(config, package)
        version = hashlib.sha256(package.read_bytes()).hexdigest()[:_VERSION_DIGITS]
        pipeline_id, version_id = _upload(runs, name, version, package)
    namespace = runs.namespace or None
    with contextlib.redirect_stdout(io.StringIO()):  # links with unreadable ids; ours are printed
        experiment = runs.ask(
            "make the experiment",
            lambda: runs.client.create_experiment(config.tracking.experiment, namespace=namespace),
        )
        run = runs.ask(
            "start the run",
            lambda: runs.client.run_pipeline(
                experiment.experiment_id,
                config.name,
                pipeline_id=pipeline_id,
                version_id=version_id,
                service_account=service_account or None,
            ),
        )
    return str(run.run_id)


def _upload(runs: KfpRuns, name: str, version: str, package: Path) -> tuple[str, str]:
    """Return pipeline and version, uploading what is not there."""
    client = runs.client
    with contextlib.redirect_stdout(io.StringIO()):
        pipeline_id = runs.ask("look for the pipeline", lambda: client.get_pipeline_id(name))
        if pipeline_id is None:
            uploaded = runs.ask(
                "upload the pipeline",
                lambda: client.upload_pipeline(str(package), name, namespace=runs.namespace or None),
            )
            versions = runs.ask("list versions", lambda: client.list_pipeline_versions(uploaded.pipeline_id))
            return str(uploaded.pipeline_id), str(versions.pipeline_versions[0].pipeline_version_id)
        versions = runs.ask(
            "list versions",
            lambda: client.list_pipeline_versions(pipeline_id, page_size=_PAGE, sort_by="created_at desc"),
        )
        for found in versions.pipeline_versions or []:
            if found.display_name == version:
                return pipeline_id, str(found.pipeline_version_id)
        new = runs.ask(
            "upload the version",
            lambda: client.upload_pipeline_version(str(package), version, pipeline_id=pipeline_id),
        )
    return pipeline_id, str(new.pipeline_version_id)


def _check(config: "RunConfig") -> None:
    """Refuse what can't run on a cluster before anything is uploaded."""
    if not config.cluster.pvc:
        raise ConfigurationError(
            "On a cluster every stage is a pod of its own: set cluster.pvc to the ReadWriteMany volume claim that they share."
        )
    if not config.workspace.is_absolute():
        raise ConfigurationError(
            f"workspace is {config.workspace}: on a cluster it is the volume's mount path, as workspace=/workspace."
        )
