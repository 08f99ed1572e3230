"""The configuration of a pipeline run: every stage's settings in one typed tree. `preset_files.py` reads one."""

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.combine.config import CombineConfig
from components.data.image_settings import ImageSettings
from components.download.config import DatasetConfig
from components.download.weights_config import WeightsConfig
from components.energon_split.config import EnergonSplitConfig, split_problem
from components.errors import ConfigurationError
from components.evaluate.config import EvaluateConfig
from components.export.config import ExportConfig
from components.generate.config import GenerateConfig
from components.launch.config import ClusterConfig
from components.launch.fit import check_fit
from components.model.stock import check_stock
from components.published_model.config import PublishedModel
from components.report.config import ReportConfig
from components.tracking.registry import RegistryConfig
from components.training.config import TrainingConfig
from components.wds_conversion.config import WdsConversionConfig
from components.weight_conversion.config import WeightConversionConfig
from pipelines.known_parts import language_width, tower_input

TrainingStage = Literal["pretrain", "sft"]
TRAINING_STAGES: tuple[TrainingStage, ...] = typing.get_args(TrainingStage)
EvaluationName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AboutConfig(_Section):
    """What a preset is, for people and estimates (`vlm presets`, `vlm doctor --preset`); without effect on a run.

    Attributes:
        summary: One line.
        gpu: GPU that it is sized for, as CUDA names it ("NVIDIA H100 80GB HBM3"); empty for none.
        recipe: Where its figures come from.
        data_bytes (bytes): Disk that its data take, fetched and converted.
    """

    summary: str = ""
    gpu: str = ""
    recipe: tuple[str, ...] = ()
    data_bytes: int = Field(default=0, ge=0)


class TrackingConfig(_Section):
    """Where parameters, curves and results are tracked.

    Attributes:
        uri: MLflow tracking URI; "auto" takes `MLFLOW_TRACKING_URI` from the environment, else a SQLite database in the
            workspace; "none" switches tracking off.
        experiment: MLflow experiment; runs of one experiment compare side by side.
        kfp_ui: Address of KFP's UI as people open it, for a link from the run in MLflow to its page there; `vlm submit`
            takes its endpoint. Empty for no link.
    """

    uri: str = "auto"
    experiment: str = Field(default="vlm-pipelines", min_length=1)
    kfp_ui: str = Field(default="", pattern=r"^(https?://\S+)?$")


class WdsConversions(_Section):
    """The conversion's two uses.

    Attributes:
        pretrain: Captions for pretraining.
        sft: Conversations for fine-tuning.
    """

    pretrain: WdsConversionConfig
    sft: WdsConversionConfig


class EnergonSplits(_Section):
    """The split's two uses.

    Attributes:
        pretrain: Shards of the pretraining data.
        sft: Shards of the fine-tuning data.
    """

    pretrain: EnergonSplitConfig
    sft: EnergonSplitConfig


class WeightConversions(_Section):
    """The weight conversion's two uses.

    Attributes:
        language: The language model.
        vision: The vision tower.
    """

    language: WeightConversionConfig
    vision: WeightConversionConfig


class EvaluationConfig(_Section):
    """What one trained model is asked, and how its answers are scored.

    Attributes:
        model: What answers: the model of a training stage, "pretrain" or "sft", or one of `models`.
        generate: Task and generation.
        evaluate: Scores and gates; the task is the generation's.
    """

    model: EvaluationName
    generate: GenerateConfig
    evaluate: EvaluateConfig

    @model_validator(mode="before")
    @classmethod
    def _same_task(cls, values: Any) -> Any:
        """Take the task from `generate` where `evaluate` names none."""
        if not isinstance(values, dict) or not isinstance(values.get("generate"), dict):
            return values
        task, evaluate = values["generate"].get("task"), values.get("evaluate") or {}
        return {**values, "evaluate": {"task": task, **evaluate}} if task and isinstance(evaluate, dict) else values

    @model_validator(mode="after")
    def _one_task(self) -> "EvaluationConfig":
        if self.generate.task != self.evaluate.task:
            raise ValueError(
                f"generate.task ({self.generate.task}) and evaluate.task ({self.evaluate.task}) must be the same"
            )
        return self


class RunConfig(_Section):
    """Everything that decides a pipeline run.

    Attributes:
        name: Name of the run that people see.
        workspace: Root folder of all stage outputs: a folder here, the volume's mount path on a cluster.
        about: What the preset is.
        tracking: Where the run is tracked.
        cluster: Where tasks run on a cluster.
        data: What data to fetch.
        weights: What weights to fetch.
        wds_conversion: Conversion to WebDataset shards.
        energon_split: Train, validation and test splits.
        weight_conversion: Conversion to megatron-core checkpoints.
        combine: Language model, vision tower and projector to one model.
        pretrain: First training stage.
        sft: Second training stage.
        models: Name to a published model that is asked, too: what the trained ones are compared with.
        evaluations: Name to what a model is asked; any number.
        report: The report.
        export: The tuned model in Hugging Face layout.
        registry: Where a model that passes its gates is registered.
    """

    name: str = Field(min_length=1)
    workspace: Path
    about: AboutConfig = AboutConfig()
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()
    data: DatasetConfig
    weights: WeightsConfig
    wds_conversion: WdsConversions
    energon_split: EnergonSplits
    weight_conversion: WeightConversions
    combine: CombineConfig
    pretrain: TrainingConfig
    sft: TrainingConfig
    models: dict[EvaluationName, PublishedModel] = {}
    evaluations: dict[EvaluationName, EvaluationConfig] = Field(min_length=1)
    report: ReportConfig
    export: ExportConfig = ExportConfig()
    registry: RegistryConfig = RegistryConfig()

    def evaluations_of(self, model: str) -> list[str]:
        """Return the names of the evaluations of a training stage's model, or of one of `models`."""
        return [name for name, evaluation in self.evaluations.items() if evaluation.model == model]

    def baselines_of(self, evaluation: str) -> dict[str, str]:
        """Return the baselines of an evaluation's gates that are evaluations of this run: what a published model is asked.

        Args:
            evaluation: Name of the evaluation.

        Returns:
            A gate's `baseline`, which names one of `models` or what is published under, to the name of that model's evaluation
            of the same task.
        """
        asked = self.evaluations[evaluation]
        found: dict[str, str] = {}
        for reference in dict.fromkeys(gate.baseline for gate in asked.evaluate.gates if gate.baseline):
            for name, other in self.evaluations.items():
                model = self.models.get(other.model)
                same = name != evaluation and other.generate.task == asked.generate.task
                if same and model is not None and reference in (other.model, model.name):
                    found[reference] = name
        return found

    def is_served(self, model: str) -> bool:
        """Tell whether a model that evaluations name is an endpoint's, which needs no GPU here."""
        return model in self.models and self.models[model].endpoint is not None

    @model_validator(mode="after")
    def _models_are_known(self) -> "RunConfig":
        taken = sorted(set(self.models) & set(TRAINING_STAGES))
        if taken:
            raise ValueError(f"models.{taken[0]}: is the name of a training stage's model; choose another")
        for name, evaluation in self.evaluations.items():
            if evaluation.model not in (*TRAINING_STAGES, *self.models):
                known = ", ".join((*TRAINING_STAGES, *self.models))
                raise ValueError(
                    f"evaluations.{name}.model: {evaluation.model!r} is none of {known}; models names published ones"
                )
            named = {gate.baseline for gate in evaluation.evaluate.gates} & set(self.models)
            alone = sorted(named - set(self.baselines_of(name)))
            if alone:
                raise ValueError(
                    f"evaluations.{name}.evaluate.gates: the baseline {alone[0]} is one of models, but is not asked {evaluation.generate.task}: "
                    "add an evaluation of it"
                )
            if evaluation.model in self.models and self.baselines_of(name):
                raise ValueError(
                    f"evaluations.{name}.evaluate.gates: a published model has no other one as a baseline in one run"
                )
        idle = [name for name in self.models if not self.evaluations_of(name)]
        if idle:
            raise ValueError(f"models.{idle[0]}: no evaluation asks it")
        return self

    @model_validator(mode="after")
    def _shards_fit(self) -> "RunConfig":
        for use in WdsConversions.model_fields:
            conversion, split = getattr(self.wds_conversion, use), getattr(self.energon_split, use)
            if problem := split_problem(conversion.min_shards, split.ratio):
                raise ValueError(
                    f"wds_conversion.{use}.min_shards ({conversion.min_shards}) is too low for energon_split.{use}.ratio: {problem}"
                )
        return self

    @model_validator(mode="after")
    def _exportable(self) -> "RunConfig":
        if not self.export.custom_code:
            projector, side = self.combine.projector, self.combine.image.pixel_shuffle
            width = language_width(self.weights) if projector.ffn_hidden_size else None
            try:
                check_stock(projector, width, side)
            except ConfigurationError as error:
                raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _squares_fit(self) -> "RunConfig":
        chosen = self.combine.image
        if chosen.pixel_shuffle > 1 and (tower := tower_input(self.weights)):
            size, patch = chosen.size or tower[0], chosen.patch or tower[1]
            try:
                ImageSettings(size=size, patch=patch, pixel_shuffle=chosen.pixel_shuffle)
            except ValidationError as error:
                raise ValueError(f"combine.image: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        return self

    @model_validator(mode="after")
    def _tracked(self) -> "RunConfig":
        if self.registry.name and self.tracking.uri in ("none", ""):
            raise ValueError("registry.name needs MLflow, but tracking.uri is none")
        return self

    @model_validator(mode="after")
    def _gpus_fit(self) -> "RunConfig":
        for stage in TRAINING_STAGES:
            launch = getattr(self, stage).launch
            if launch.backend == "local" and self.cluster.gpus and self.cluster.gpus < launch.processes_per_node:
                raise ValueError(
                    f"cluster.gpus ({self.cluster.gpus}) is less than {stage}.launch.processes_per_node "
                    f"({launch.processes_per_node}): every process needs its own GPU"
                )
            try:
                check_fit(launch, self.cluster)
            except ConfigurationError as error:
                raise ValueError(f"{stage}: {error}") from None
        for name, evaluation in self.evaluations.items():
            if self.is_served(evaluation.model):
                continue
            if 0 < self.cluster.gpus < evaluation.generate.processes:
                raise ValueError(
                    f"cluster.gpus ({self.cluster.gpus}) is less than the processes of evaluations.{name}.generate "
                    f"({evaluation.generate.processes}): every process needs its own GPU"
                )
        return self


def setting(config: RunConfig, key: str) -> Any:
    """Return the value behind a dotted key as JSON has it.

    Raises:
        KeyError: There is no such setting.
    """
    return value_at(config.model_dump(mode="json"), key)


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """Return what a tree of settings has behind a dotted key.

    Raises:
        KeyError: There is no such setting.
    """
    value: Any = tree
    for name in key.split("."):
        value = value[name]
    return value
