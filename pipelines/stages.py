"""The table of stages: each stage of the training DAG once, in the order in which people see them.

`vlm_training.py` calls the stages; where their tasks run, which settings they get and how they are listed stands here.
"""

import pkgutil
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pipelines.config import RunConfig, TrainingStage, setting

if TYPE_CHECKING:
    from kfp.dsl.base_component import BaseComponent

_CLOSING_DEADLINE_S = 900  # it needs seconds: an image that does not come must not keep a run from ending


class Place(Enum):
    """Where a stage's task runs on a cluster: image, resources, and whether KFP tries it again.

    Attributes:
        BOOKS: In the CPU image, with `cluster.launcher_cpu` and `cluster.launcher_memory`, since it reads and writes little
            but settings and states; not tried again.
        CPU: In the CPU image, with `cluster.cpu` and `cluster.memory`; not tried again.
        GPU: In the training image on GPU nodes, with `cluster.gpus`, `cluster.gpu_cpu` and `cluster.gpu_memory`; tried
            again. Where `cluster.gpus` is 0: in the CPU image on any node, not tried again.
        TRAINING: Like GPU if its `launch.backend` is local. Else in the CPU image, with `cluster.launcher_cpu` and
            `cluster.launcher_memory`, to submit and follow a job that has the GPUs; tried again.
    """

    BOOKS = "books"
    CPU = "cpu"
    GPU = "gpu"
    TRAINING = "training"


@dataclass(frozen=True)
class Stage:
    """A row of the table.

    Attributes:
        name: What people see, and the stage's folder in the workspace: "room", or "room/use" where there are several uses.
        component: Its KFP component, as "module:name".
        settings: Dotted key of its settings in `RunConfig`; empty for none.
        follows: Names of the stages whose output it takes, or for whose end it waits.
        place: Where its task runs on a cluster.
        deadline_s: Seconds after which a cluster ends its pod, from when a node has it; None for never.
        compiled: Those of its settings that decide the tasks of a compiled pipeline: a run can't change them.
        shared_by: The one of its settings that says how many tasks do it side by side; empty where it is always one.
        listed: It reports its progress, and so has a line wherever stages are listed.
    """

    name: str
    component: str
    settings: str = ""
    follows: tuple[str, ...] = ()
    place: Place = Place.CPU
    deadline_s: int | None = None
    compiled: tuple[str, ...] = ()
    shared_by: str = ""
    listed: bool = True

    @property
    def label(self) -> str:
        """Name of its task in KFP's UI."""
        return self.name.replace("/", ": ")

    def tasks(self, config: RunConfig) -> int:
        """Return how many tasks do it side by side."""
        return int(setting(config, f"{self.settings}.{self.shared_by}")) if self.shared_by else 1

    def load(self) -> "BaseComponent":
        """Return the component. A table of components could not be read inside a KFP task, where there is no decorator."""
        component: BaseComponent = pkgutil.resolve_name(self.component)
        return component


def training_stages(config: RunConfig) -> tuple[Stage, ...]:
    """Return the rows of the training DAG; what a model is asked stands below the stage that trains it.

    Args:
        config: The run's configuration, for the names of its evaluations.
    """
    published_scores = [name for model in config.models for name in _evaluations(config, model)]
    pretrain_scores = _evaluations(config, "pretrain")
    sft_scores = _evaluations(config, "sft")
    return (
        Stage("open_run", "pipelines.open_run:open_run", place=Place.BOOKS),
        Stage("download/dataset", "components.download.component:download_dataset", "data"),
        Stage("download/weights", "components.download.component:download_weights", "weights", ("download/dataset",)),
        _conversion("pretrain"),
        _conversion("sft"),
        _split("pretrain"),
        _split("sft"),
        _weights("language"),
        _weights("vision"),
        Stage(
            "combine",
            "components.combine.component:combine",
            "combine",
            follows=("weight_conversion/language", "weight_conversion/vision"),
        ),
        *(stage for model in config.models for stage in _published(config, model)),
        _training("pretrain", model="combine"),
        *_examinations(config, "pretrain"),
        _training("sft", model="pretrain"),
        *_examinations(config, "sft"),
        Stage(
            "report",
            "components.report.component:report",
            "report",
            follows=("pretrain", "sft", *published_scores, *pretrain_scores, *sft_scores),
        ),
        Stage("export", "components.export.component:export", "export", follows=("sft", *sft_scores)),
        Stage(
            "quality_gate",
            "components.evaluate.component:quality_gate",
            "registry",
            follows=(*published_scores, *pretrain_scores, *sft_scores, "report", "export"),
            listed=False,
        ),
        Stage(
            "close_run",
            "pipelines.open_run:close_run",
            place=Place.BOOKS,
            deadline_s=_CLOSING_DEADLINE_S,
            listed=False,
        ),
    )


def listed_stages(config: RunConfig) -> list[Stage]:
    """Return the stages that report their progress, in the order of the DAG."""
    return [stage for stage in training_stages(config) if stage.listed]


def _conversion(use: str) -> Stage:
    return Stage(
        f"wds_conversion/{use}",
        "components.wds_conversion.component:wds_conversion",
        f"wds_conversion.{use}",
        follows=("download/dataset",),
        compiled=("parallel_tasks",),
        shared_by="parallel_tasks",
    )


def _split(use: str) -> Stage:
    return Stage(
        f"energon_split/{use}",
        "components.energon_split.component:energon_split",
        f"energon_split.{use}",
        follows=(f"wds_conversion/{use}",),
    )


def _weights(part: str) -> Stage:
    return Stage(
        f"weight_conversion/{part}",
        "components.weight_conversion.component:weight_conversion",
        f"weight_conversion.{part}",
        follows=("download/weights",),
    )


def _training(stage: TrainingStage, model: str) -> Stage:
    return Stage(
        stage,
        f"components.{stage}.component:{stage}",
        stage,
        follows=(model, f"energon_split/{stage}"),
        place=Place.TRAINING,
        compiled=("launch.backend",),
    )


def _published(config: RunConfig, model: str) -> list[Stage]:
    """Return the rows of a published model and of what it is asked."""
    name = f"published_model/{model}"
    row = Stage(name, "components.published_model.component:published_model", f"models.{model}")
    return [row, *_examinations(config, model, stage=name)]


def _examinations(config: RunConfig, model: str, stage: str = "") -> list[Stage]:
    return [row for name in config.evaluations_of(model) for row in _examination(config, name, model=stage or model)]


def _examination(config: RunConfig, name: str, model: str) -> tuple[Stage, Stage]:
    baselines = [f"evaluate/{other}" for other in config.baselines_of(name).values()]
    generate = Stage(
        f"generate/{name}",
        "components.generate.component:generate",
        f"evaluations.{name}.generate",
        follows=(model, "download/dataset", *baselines),
        place=Place.CPU if config.is_served(config.evaluations[name].model) else Place.GPU,
        compiled=("partitions",),
        shared_by="partitions",
    )
    evaluate = Stage(
        f"evaluate/{name}",
        "components.evaluate.component:evaluate",
        f"evaluations.{name}.evaluate",
        follows=(generate.name, model, "download/dataset"),
    )
    return generate, evaluate


def _evaluations(config: RunConfig, model: str) -> list[str]:
    return [f"evaluate/{name}" for name in config.evaluations_of(model)]
