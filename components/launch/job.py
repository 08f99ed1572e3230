"""What a launcher runs, whatever the place."""

from dataclasses import dataclass, field
from pathlib import Path

from components.launch.config import LaunchConfig


@dataclass(frozen=True)
class TrainingJob:
    """A Python module run by torchrun.

    Attributes:
        name: Short name for logs.
        module: Module with a `main()` guarded entry.
        arguments: Its command-line arguments.
        log_folder: Where each rank's output is kept.
        config: How many processes, and where.
        environment: Additional environment variables of every process.
    """

    name: str
    module: str
    arguments: list[str]
    log_folder: Path
    config: LaunchConfig
    environment: dict[str, str] = field(default_factory=dict)
