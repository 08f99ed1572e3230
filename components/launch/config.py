"""Settings of where and how wide a training runs; they never change what is trained."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class LaunchConfig(BaseModel):
    """How many processes train, and where.

    Attributes:
        backend: "local" starts torchrun on this machine or in this container.
        nodes: Number of machines; the local backend has one.
        processes_per_node: Processes on each machine, one per GPU (or one per CPU core without GPUs).
        tensor_parallel: Processes that share one copy of the model; the rest is data parallel.
        threads_per_process: CPU threads of each process.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: Literal["local"] = "local"
    nodes: int = Field(default=1, ge=1)
    processes_per_node: int = Field(default=1, ge=1)
    tensor_parallel: int = Field(default=1, ge=1)
    threads_per_process: int = Field(default=1, ge=1)

    @property
    def world_size(self) -> int:
        """Number of processes in all."""
        return self.nodes * self.processes_per_node

    @property
    def data_parallel(self) -> int:
        """Number of copies of the model."""
        return self.world_size // self.tensor_parallel

    @model_validator(mode="after")
    def _processes_fit(self) -> "LaunchConfig":
        if self.processes_per_node % self.tensor_parallel:
            raise ValueError(
                f"processes_per_node ({self.processes_per_node}) must be a multiple of tensor_parallel "
                f"({self.tensor_parallel}): tensor-parallel groups stay inside one node"
            )
        return self
