"""What a cluster is examined for: the settings of a run, and where it would go."""

from dataclasses import dataclass

from components.training.config import TrainingConfig
from pipelines.config import TRAINING_STAGES, RunConfig


@dataclass(frozen=True)
class Question:
    """What is to run.

    Attributes:
        config: The run's settings.
        namespace: Namespace of its pods.
        kfp_namespace: Namespace of Kubeflow Pipelines itself.
        service_account: Service account of the run's pods; empty for KFP's own.
    """

    config: RunConfig
    namespace: str
    kfp_namespace: str = "kubeflow"
    service_account: str = ""

    @property
    def job_namespace(self) -> str:
        """Namespace of the training jobs."""
        return self.config.cluster.job.namespace or self.namespace

    @property
    def trainings(self) -> list[TrainingConfig]:
        """The stages that train."""
        return [getattr(self.config, stage) for stage in TRAINING_STAGES]

    def uses(self, backend: str) -> bool:
        """Tell whether a stage trains by jobs of a kind."""
        return any(training.launch.backend == backend for training in self.trainings)

    @property
    def gpus_per_pod(self) -> int:
        """GPUs of the largest pod."""
        cluster = self.config.cluster
        if not cluster.gpus:
            return 0
        jobs = [one.launch.processes_per_node for one in self.trainings if one.launch.backend != "local"]
        return max([cluster.gpus, *jobs])

    @property
    def nodes_at_once(self) -> int:
        """Nodes of the widest training."""
        return max(one.launch.nodes for one in self.trainings)
