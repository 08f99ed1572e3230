"""The training job that a stage would submit, to be looked at or checked by a cluster before anything runs."""

import yaml

from components.context import RunContext
from components.errors import ConfigurationError
from components.training.stage import training_job
from pipelines.config import RunConfig
from pipelines.stages import Place, training_stages

_UNKNOWN_KEY = "0" * 16
_HEADER = f"# {_UNKNOWN_KEY} stands for the content key of the work, which its inputs decide.\n"


def job_manifest(config: RunConfig, stage: str) -> str:
    """Return the job of a training stage as YAML for `kubectl apply --dry-run=server -f -`.

    Args:
        config: The run's configuration.
        stage: The training stage.

    Raises:
        ConfigurationError: The stage does not train, or it trains in its own pod, without a job.
    """
    trained = [row.name for row in training_stages(config) if row.place is Place.TRAINING]
    if stage not in trained:
        raise ConfigurationError(f"{stage!r} submits no training job. Stages that train: {', '.join(trained)}.")
    from components.launch.cluster import JOB_KINDS  # the Kubernetes client takes a second to import

    training = getattr(config, stage)
    if training.launch.backend == "local":
        raise ConfigurationError(
            f"{stage}.launch.backend is local: the stage trains in its task's own pod and submits no job. "
            f"Set {stage}.launch.backend to pytorchjob or trainjob."
        )
    context = RunContext(run_id="preview", run_name=config.name, workspace=config.workspace)
    folder = config.workspace / stage / _UNKNOWN_KEY
    body = JOB_KINDS[training.launch.backend].render(training_job(context, stage, training, folder, config.cluster))
    return _HEADER + yaml.safe_dump(body, sort_keys=False)
