"""What a backend can't do: refused when a run is configured, long before its job is submitted."""

from components.errors import ConfigurationError
from components.launch.config import ClusterConfig, LaunchConfig


def check_fit(launch: LaunchConfig, cluster: ClusterConfig) -> None:
    """Compare the settings of a job with what its backend can do.

    Args:
        launch: Backend and width.
        cluster: What the pods get.

    Raises:
        ConfigurationError: The backend can't do what a setting asks for, or a setting that it needs is missing.
    """
    if launch.backend == "local":
        if launch.nodes > 1:
            raise ConfigurationError(
                f"launch.nodes is {launch.nodes}, but the local backend has one machine. Set launch.nodes to 1 and "
                "launch.processes_per_node to the number of GPUs here, or launch.backend to pytorchjob or trainjob."
            )
        return
    if not cluster.pvc:
        raise ConfigurationError(
            f"launch.backend {launch.backend} needs a workspace that all its pods share: set cluster.pvc to a "
            "ReadWriteMany volume claim."
        )
    twice = sorted({secret.variable for secret in cluster.secrets} & set(cluster.job.environment))
    if twice:
        raise ConfigurationError(
            f"{', '.join(twice)} is set by cluster.secrets and by cluster.job.environment: keep one."
        )
    if launch.backend == "trainjob":
        _check_trainjob(cluster)


def _check_trainjob(cluster: ClusterConfig) -> None:
    """Refuse what a TrainJob can't express: left out silently, it would be missed too late."""
    job = cluster.job
    unfit = {
        "cluster.job.ttl_s": (job.ttl_s is not None, "none"),
        "cluster.job.backoff_limit": (job.backoff_limit != 0, "0"),
        "cluster.job.clean_pods": (job.clean_pods != "Running", "Running"),
        "cluster.job.gang_scheduling": (job.gang_scheduling, "false"),
        "cluster.job.priority_class": (bool(job.priority_class) and not job.queue, "''"),
        "cluster.image_pull_policy": (bool(cluster.image_pull_policy), "''"),
    }
    names = {name: default for name, (is_set, default) in unfit.items() if is_set}
    if names:
        defaults = " ".join(f"--set {name}={default}" for name, default in names.items())
        raise ConfigurationError(
            f"A TrainJob has no {', '.join(names)}. Leave it out ({defaults}) and set it in the ClusterTrainingRuntime "
            f"{job.runtime!r}, or use launch.backend pytorchjob."
        )
