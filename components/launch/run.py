"""Runs a training job where its settings say, again and again while that may help."""

from components.launch.attempts import keep_trying
from components.launch.job import TrainingJob
from components.launch.local import run_local


def run_job(job: TrainingJob) -> None:
    """Run the job until it has succeeded; see the backends for what each promises.

    An attempt that fails for a reason that may pass is followed by another one: `cluster.job.tries` in a row without a new
    checkpoint, any number with.

    Raises:
        ConfigurationError: The job's settings don't fit its backend, or the cluster does not take it.
        TrainingFailed: The job failed, and would fail again.
        ClusterFailure: The attempts are used up, or the cluster's API does not answer.
    """
    if job.config.backend == "local":
        keep_trying(job, lambda: run_local(job))
        return
    from components.launch.cluster import run_on_cluster  # the Kubernetes client takes a second to import

    keep_trying(job, lambda: run_on_cluster(job))
