"""The configuration of a pipeline run: every stage's settings in one typed tree.

A preset is a YAML file with such a tree. Overrides (`pretrain.recipe.iterations=500`) change single values. Whatever is
wrong is reported with its full key, what was expected, and the nearest key that exists.
"""

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.combine.config import CombineConfig
from components.data.image_settings import ImageSettings
from components.download.config import DatasetConfig, WeightsConfig
from components.energon_split.config import EnergonSplitConfig, split_problem
from components.errors import ConfigurationError
from components.evaluate.config import EvaluateConfig
from components.export.config import ExportConfig
from components.generate.config import GenerateConfig
from components.launch.config import ClusterConfig
from components.launch.fit import check_fit
from components.published_model.config import PublishedModel
from components.report.config import ReportConfig
from components.tracking.registry import RegistryConfig
from components.training.config import TrainingConfig
from components.wds_conversion.config import WdsConversionConfig
from components.weight_conversion.config import WeightConversionConfig
from pipelines.known_parts import language_width, tower_input

DEFAULT_PRESET = "laptop"

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
        depth, side = self.combine.projector.depth, self.combine.image.pixel_shuffle
        if (depth != 2 or side > 1) and not self.export.custom_code:
            raise ValueError(
                f"combine.projector.depth ({depth}) and combine.image.pixel_shuffle ({side}) are not those of transformers' own "
                "Llava (2 and 1): set export.custom_code=true, so that the exported folder carries its modelling code"
            )
        width = self.combine.projector.ffn_hidden_size
        known = language_width(self.weights) if width and not self.export.custom_code else None
        if known and width != known:
            raise ValueError(
                f"combine.projector.ffn_hidden_size ({width}) is not the language model's width ({known}), which transformers' "
                "own Llava wants: set export.custom_code=true, so that the exported folder carries its modelling code, or leave "
                "ffn_hidden_size out"
            )
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


def preset_names() -> list[str]:
    """Return the names of the presets that come with this package."""
    folder = resources.files("pipelines") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_preset(preset: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Load a preset, apply overrides and validate the result.

    Args:
        preset: Name of a preset of this package, or path of a YAML file.
        overrides: `key=value` with dotted keys; values are YAML.

    Returns:
        The validated configuration.

    Raises:
        ConfigurationError: The preset is unknown or no YAML mapping, or a key or value is wrong.
    """
    return validate(apply_overrides(read_preset(preset), overrides), source=f"preset {preset}")


def export_settings(overrides: Sequence[str], given: Mapping[str, Any] | None = None) -> ExportConfig:
    """Return the settings of an export outside of a pipeline.

    Args:
        overrides: `export.KEY=VALUE`; they have the last word.
        given: Settings of the run whose model is exported; else the defaults.

    Raises:
        ConfigurationError: A key is not one of the export's, or a value is wrong.
    """
    for override in overrides:
        if not override.strip().startswith("export."):
            raise ConfigurationError(f"{override!r} is not a setting of the export, as export.custom_code=true.")
    tree = {**read_preset(DEFAULT_PRESET), "export": dict((given or {}).get("export", {}))}
    return validate(apply_overrides(tree, overrides), "this export").export


def read_preset(preset: str) -> dict[str, Any]:
    """Read a preset's tree without validating it.

    A preset that names another one in `extends` has its settings, but for those that it gives itself: mappings are merged,
    everything else is replaced.

    Raises:
        ConfigurationError: The preset or one that it extends is unknown or not a YAML mapping, or presets extend each other.
    """
    trees: list[dict[str, Any]] = []
    read: list[str] = []
    following: str | None = preset
    while following is not None:
        if following in read:
            raise ConfigurationError(f"The presets {', '.join(read)} extend each other: one of them must not.")
        read.append(following)
        tree = _read_tree(following)
        following = tree.pop("extends", None)
        if following is not None and not isinstance(following, str):
            raise ConfigurationError(f"The preset {read[-1]} extends {following!r}: it must name one preset or file.")
        trees.append(tree)
    merged: dict[str, Any] = {}
    for tree in reversed(trees):
        merged = _merged(merged, tree)
    return merged


def _read_tree(preset: str) -> dict[str, Any]:
    if preset in preset_names():
        text = (resources.files("pipelines") / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
    elif Path(preset).is_file():
        text = Path(preset).read_text(encoding="utf-8")
    else:
        raise ConfigurationError(
            f"There is no preset {preset!r}{did_you_mean(preset, preset_names())} Presets: {', '.join(preset_names())}; "
            "or give the path of a YAML file."
        )
    tree = _parse_yaml(text, f"preset {preset}")
    if not isinstance(tree, dict):
        raise ConfigurationError(
            f"The preset {preset} must be a YAML mapping of settings, it is a {type(tree).__name__}."
        )
    return tree


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a settings tree with `key=value` overrides applied in order.

    Args:
        tree: Settings as nested mappings.
        overrides: `a.b.c=value`; the value is YAML, so `5`, `1e-4`, `true`, `text`, `[1, 2]` and `{a: 1}` mean what they
            look like. A mapping replaces the whole section.

    Returns:
        The new tree; it is not validated.

    Raises:
        ConfigurationError: An override has no `=`, its key does not exist, or its value is not YAML.
    """
    result = _copied(tree)
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigurationError(
                f"The override {override!r} must have the form key=value, as pretrain.recipe.iterations=500."
            )
        if not key_exists(key):
            raise ConfigurationError(f"There is no setting {key!r}{did_you_mean(key, list(setting_keys()))}")
        put(result, key, _parse_yaml(text, f"the value of {key}"))
    return result


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set what a tree of settings has behind a dotted key; sections that are missing, or have another value, are made."""
    node = tree
    *sections, name = key.split(".")
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            child = node[section] = {}
        node = child
    node[name] = value


def validate(tree: Mapping[str, Any], source: str) -> RunConfig:
    """Validate a settings tree.

    Args:
        tree: Settings as nested mappings.
        source: Where they come from, for the message.

    Returns:
        The configuration.

    Raises:
        ConfigurationError: Names every wrong key and what was expected.
    """
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        lines = [f"  {_explain(problem)}" for problem in error.errors(include_url=False)]
        raise ConfigurationError("\n".join([f"The settings of {source} are not valid:", *lines])) from None


def setting_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all settings, sections included."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for inner in _models_of(field.annotation):
            yield from setting_keys(inner, f"{prefix}{name}.")
        for entry in _entries_of(field.annotation):
            yield from setting_keys(entry, f"{prefix}{name}.NAME.")


def key_exists(key: str) -> bool:
    """Tell whether a dotted key names a setting, an entry of a free mapping included."""
    candidates: list[Any] = [RunConfig]
    for name in key.split("."):
        fields = [model.model_fields[name].annotation for model in candidates if name in _fields(model)]
        free = [annotation for annotation in candidates if typing.get_origin(annotation) is dict]
        if not fields and not free:
            return False
        entries = [typing.get_args(annotation)[1] for annotation in free]
        candidates = [part for annotation in (*fields, *entries) for part in annotation_parts(annotation)]
    return True


def _fields(model: Any) -> Mapping[str, Any]:
    return model.model_fields if is_model(model) else {}


def is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    """Tell whether an annotation is a section of settings, not a value."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def annotation_parts(annotation: Any) -> list[Any]:
    """Return the alternatives of a union, else the annotation itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return annotation_parts(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for argument in typing.get_args(annotation) for part in annotation_parts(argument)]
    return [annotation]


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    return [part for part in annotation_parts(annotation) if is_model(part)]


def _entries_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a free mapping maps names to."""
    mappings = [part for part in annotation_parts(annotation) if typing.get_origin(part) is dict]
    return [model for mapping in mappings for model in _models_of(typing.get_args(mapping)[1])]


def _explain(problem: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: there is no such setting{did_you_mean(key, list(setting_keys()))}"
    if problem["type"] == "missing":
        return f"{key}: is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict | BaseModel) else f" (given: {problem['input']!r})"
    return f"{key}: {message}{given}" if key else message


def did_you_mean(key: str, known: list[str]) -> str:
    """Return a suggestion: the nearest whole key, else the nearest one with the same last name."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not near:
        last = key.rsplit(".", 1)[-1]
        by_last = [name for name in known if name.rsplit(".", 1)[-1] == last]
        names = sorted({name.rsplit(".", 1)[-1] for name in known})
        alike = difflib.get_close_matches(last, names, n=1, cutoff=0.75)
        near = by_last[:3] or [name for name in known if alike and name.rsplit(".", 1)[-1] == alike[0]][:3]
    return f"; did you mean {' or '.join(near)}?" if near else "."


def _parse_yaml(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"Can't read {what} as YAML: {error}") from None


def _merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = _copied(tree)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
