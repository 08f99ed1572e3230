"""Settings of the generation stage."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from components.model.sampling_settings import Sampling
from components.tasks.loading import check_task_name

GENERATION_PREFIX = "generate/"  # a stage is this and the evaluation's name

Control = Literal["none", "blank", "shuffled"]


class CallsConfig(BaseModel):
    """How an endpoint is called; without effect on what it is asked, and on other models.

    Attributes:
        concurrency: Requests that are under way at the same time.
        attempts: Passing faults in a row (busy, a fault of the server, no answer in time) of one request that end the
            generation; what was answered is kept.
        first_wait_s (s): Seconds before the second attempt, unless the server asks for more; the wait doubles with every
            fault, up to a minute.
        timeout_s (s): Seconds without an answer after which a request counts as lost.
        key_variable: Environment variable that holds the API key; without it no key is sent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrency: int = Field(default=8, ge=1, le=1024)
    attempts: int = Field(default=8, ge=1)
    first_wait_s: float = Field(default=1.0, gt=0)
    timeout_s: float = Field(default=300.0, gt=0)
    key_variable: str = Field(default="VLM_ENDPOINT_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")


class GenerateConfig(BaseModel):
    """How a model answers a task.

    Attributes:
        task: Name of a task, or the path of a task's `.yaml` file.
        controls: What the model is shown: "none" the sample's own picture (always needed), "blank" a uniform grey one,
            "shuffled" the picture of another sample. A model that answers as well under a control does not look.
        partitions: Parts that the samples are generated in, each by its own task of the pipeline.
        tensor_parallel (processes): Processes that share the model, on this machine.
        processes_per_node: Processes in all on this machine, one per GPU: a multiple of `tensor_parallel`, whose groups share
            the work of a partition; 0 for as many as `tensor_parallel`.
        batch_size (samples): Samples that one copy of the model generates together.
        max_new_tokens (tokens): Most tokens of an answer; 0 for the task's own number.
        sampling: How tokens are chosen: the most likely ones (temperature 0), or drawn.
        limit (samples): Use only the first samples of the dataset; 0 for all. Published with the scores.
        seed: Decides whose picture a sample is shown under "shuffled".
        calls: How an endpoint is called, where the model is one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    controls: tuple[Control, ...] = ("none", "blank", "shuffled")
    partitions: int = Field(default=1, ge=1)
    tensor_parallel: int = Field(default=1, ge=1)
    processes_per_node: int = Field(default=0, ge=0)
    batch_size: int = Field(default=32, ge=1)
    max_new_tokens: int = Field(default=0, ge=0)
    sampling: Sampling = Sampling()
    limit: int = Field(default=0, ge=0)
    seed: int = 0
    calls: CallsConfig = CallsConfig()

    _task_exists = field_validator("task")(check_task_name)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "none" not in self.controls or len(set(self.controls)) != len(self.controls):
            raise ValueError('controls: must name "none" and may name every other control once')
        if self.processes_per_node % self.tensor_parallel:
            raise ValueError(
                f"processes_per_node ({self.processes_per_node}) must be a multiple of tensor_parallel "
                f"({self.tensor_parallel})"
            )
        return self

    @property
    def deciding(self) -> Self:
        """What decides the answers: all settings but how an endpoint is called, which may change while it is asked."""
        return self.model_copy(update={"calls": CallsConfig()})

    @property
    def processes(self) -> int:
        """Number of processes of one generating task."""
        return self.processes_per_node or self.tensor_parallel
