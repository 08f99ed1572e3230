"""Runs a training job where its settings say."""

from components.launch.job import TrainingJob
from components.launch.local import run_local


def run_job(job: TrainingJob) -> None:
    """Run the job and wait for it; see the backends for what each promises.

    Raises:
        ConfigurationError: The job's settings don't fit its backend, or the cluster does not take it.
        StageError: The job failed; `TrainingFailed` if another try can't help, `ClusterFailure` if it may.
    """
    if job.config.backend == "local":
        run_local(job)
        return
    from components.launch.cluster import run_on_cluster  # the Kubernetes client takes a second to import

    run_on_cluster(job)
