"""What a launcher runs, whatever the place."""

from dataclasses import dataclass, field
from pathlib import Path

from components.launch.config import ClusterConfig, LaunchConfig


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
