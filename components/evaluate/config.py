"""Settings of the evaluation stage."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from components.errors import ConfigurationError
from components.metrics.registry import find_metric
from components.tasks.loading import check_task_name, load_task

EVALUATION_PREFIX = "evaluate/"  # a stage is this and the evaluation's name


class Gate(BaseModel):
    """What a model must reach.

    Attributes:
        metric: Metric that is judged; empty for the task's headline.
        minimum (points): Least value in points, as published (CIDEr 94, accuracy 38: not 0.94 and 0.38).
        margin (points): Least distance in points to the best control of the task.
        baseline: Earlier run that the model must not fall behind, sample by sample: its run id, its name (the newest
            finished run of that name), the beginning of its id, its folder, its MLflow run id, or a registered model,
            "models:/NAME@ALIAS" or "models:/NAME/VERSION". Looked for in the workspace, then in MLflow. A published model is one by
            the name that it was evaluated under (`vlm evaluate ORG/NAME`), or by its name in this run's `models`, if that run asks
            it the same.
        max_drop (points): Points that may be lost against the baseline even where the loss is significant.
        significance: A loss against the baseline counts where its two-sided p-value is below this.
        action: "fail" ends the pipeline run in failure, "warn" says so and goes on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str = ""
    minimum: float | None = None
    margin: float | None = None
    baseline: str = ""
    max_drop: float = Field(default=0.0, ge=0)
    significance: float = Field(default=0.05, gt=0, lt=1)
    action: Literal["fail", "warn"] = "fail"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.minimum is None and self.margin is None and not self.baseline:
            raise ValueError("a gate needs a minimum, a margin or a baseline")
        if self.max_drop and not self.baseline:
            raise ValueError("max_drop is a distance to a baseline, but the gate names none")
        for name, value in (("minimum", self.minimum), ("margin", self.margin)):
            if value is not None and 0 < value < 1:
                raise ValueError(f"{name}: {value} is less than one point; scores are in points, write {100 * value:g}")
        return self


class EvaluateConfig(BaseModel):
    """How predictions are scored.

    Attributes:
        task: Name of the task, or the path of its `.yaml` file; the one that the predictions were generated with.
        gates: What the model must reach.
        allow_partial: Score what is there even if samples are missing or were answered more than once (the first answer
            counts). The score is then marked PARTIAL wherever it is shown. Answers that can't belong here (of another
            model, task, dataset or generation, or of unknown samples) are refused all the same.
        gate_partial: Judge gates on a partial score, too; otherwise none passes on one.
        bootstrap_samples: Resamplings of the held-out set behind each 95 % interval.
        constant_candidates: Captioning: how many distinct training captions are tried as the best constant caption.
        samples (samples): How many samples are shown with their pictures.
        seed: Of the resampling, the candidates, and the letter that stands for an answer without one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    gates: tuple[Gate, ...] = ()
    allow_partial: bool = False
    gate_partial: bool = False
    bootstrap_samples: int = Field(default=1000, ge=100)
    constant_candidates: int = Field(default=1000, ge=1)
    samples: int = Field(default=24, ge=0)
    seed: int = 0

    _task_exists = field_validator("task")(check_task_name)

    @model_validator(mode="after")
    def _gates_fit_the_task(self) -> Self:
        try:
            task = load_task(self.task)
        except ConfigurationError:  # the file of a task may be on the cluster alone: the run's start will tell
            return self
        for gate in self.gates:
            if gate.metric and gate.metric not in task.metrics:
                raise ValueError(
                    f"gates: {gate.metric!r} is not a metric of the task {task.name}, which has {', '.join(task.metrics)}"
                )
            metric = find_metric(gate.metric or task.headline)
            if metric.direction == "neither":
                raise ValueError(f"gates: neither a higher nor a lower {metric.name} is better: no gate can judge it")
            if metric.direction == "lower" and gate.minimum is not None:
                raise ValueError(f"gates: a lower {metric.name} is better: a minimum would let every bad model pass")
        return self
