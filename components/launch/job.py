"""What a launcher runs, whatever the place."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from components.launch.config import ClusterConfig, LaunchConfig


class JobProgress(Protocol):
    """How far a job is, as its folder tells; goes on counting from one attempt to the next."""

    @property
    def unit(self) -> str:
        """What is counted, in the singular ("step")."""

    def saved(self) -> int:
        """Return what another attempt need not do again: the step of the newest checkpoint, 0 for none."""

    def done(self) -> int:
        """Return how far the job is, 0 while that is not known."""

    def finished(self) -> bool:
        """Return whether the job has left everything that it was to leave, however its processes ended."""


class NoProgress:
    """Of a job whose progress nobody measures: each attempt begins again."""

    unit = "step"

    def saved(self) -> int:
        """Return 0."""
        return 0

    def done(self) -> int:
        """Return 0."""
        return 0

    def finished(self) -> bool:
        """Return False."""
        return False


@dataclass(frozen=True)
class TrainingJob:
    """A Python module run by torchrun.

    Attributes:
        name: Short name for logs and part of the job's name on a cluster ("pretrain").
        module: Module with a `main()` guarded entry.
        arguments: Its command-line arguments.
        log_folder: Where each rank's output is kept by the local backend, and the job's record by the others.
        config: How many processes, and where.
        environment: Additional environment variables of every process.
        key: Content key of the work: the same work has the same name on a cluster.
        run_id: The pipeline run that asks for it.
        workspace: Where the workspace volume is mounted.
        cluster: What the pods get on a cluster.
        progress: How far it is.
    """

    name: str
    module: str
    arguments: list[str]
    log_folder: Path
    config: LaunchConfig
    environment: dict[str, str] = field(default_factory=dict)
    key: str = ""
    run_id: str = ""
    workspace: Path = Path("/workspace")
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    progress: JobProgress = field(default_factory=NoProgress)
