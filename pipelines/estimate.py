"""What a run will need, worked out from its settings: parameters, memory of each GPU, disk, hours.

Shapes of published models are known without their files (`components.model.families.published`); of others, once they are here.
"""

from dataclasses import dataclass

from components.combine.config import CombineConfig
from components.data.image_settings import ImageSettings
from components.download.weights_config import RANDOM, WeightsConfig
from components.errors import ConfigurationError
from components.model.config import LanguageConfig, ModelConfig, Part, ProjectorConfig, VisionConfig
from components.model.families.hf_config import HfConfig
from components.model.families.language.registry import read_language
from components.model.families.vision.registry import read_vision
from components.model.flops import Work, backward_flops, forward_flops
from components.model.parameters import parameters_of
from components.training.config import Recipe, TrainingConfig
from components.training.devices import bf16_peak
from components.training.memory import MemoryEstimate, estimate_memory
from pipelines.config import TRAINING_STAGES, RunConfig
from pipelines.known_parts import source_config

UTILISATION = 0.35
"""Share of a GPU's peak that training reaches, for hours: the full 7B model reached 0.38 on an H100 (tests/benchmarks/RESULTS.md)."""

TEXT_TOKENS = {True: 25, False: 250}
"""Text of a sample, of captions alone or not: captions of LLaVA-Pretrain, and about what conversations of mix665k have."""

_MODEL_COPIES = 6  # as fetched, converted, combined, after both trainings, exported
_STATE_BYTES = 12  # master weights and moments
_BF16_BYTES = 2


@dataclass(frozen=True)
class StageEstimate:
    """What one training needs.

    Attributes:
        stage: Its name.
        gpus: GPUs of all nodes.
        memory: Of each GPU, at its peak.
        checkpoint: Bytes of one checkpoint.
        kept: Checkpoints that are there at once.
        hours: At `UTILISATION` of the GPU's peak; None where that is not known.
    """

    stage: str
    gpus: int
    memory: MemoryEstimate
    checkpoint: int
    kept: int
    hours: float | None


@dataclass(frozen=True)
class RunEstimate:
    """What a run needs.

    Attributes:
        model: The architecture.
        parameters: Parameters of each part.
        stages: The trainings.
    """

    model: ModelConfig
    parameters: dict[Part, int]
    stages: tuple[StageEstimate, ...]

    @property
    def disk(self) -> int:
        """Bytes of all models and of the checkpoints of the training that has most; without data."""
        models = sum(self.parameters.values()) * _BF16_BYTES * _MODEL_COPIES
        return models + max(stage.checkpoint * stage.kept for stage in self.stages)

    @property
    def host_memory(self) -> int:
        """Bytes of one machine that copies a whole checkpoint to write it in the background."""
        return max(stage.checkpoint for stage in self.stages)


def estimate_run(config: RunConfig) -> RunEstimate:
    """Estimate what a run needs.

    Raises:
        ConfigurationError: The shape of one of its models is not known yet.
    """
    model = model_of(config)
    counts = parameters_of(model)
    stages = tuple(_stage(config, model, stage, getattr(config, stage)) for stage in TRAINING_STAGES)
    return RunEstimate(model, {part: count.total for part, count in counts.items()}, stages)


def model_of(config: RunConfig) -> ModelConfig:
    """Return the architecture of a run's model, before anything of it is here.

    Raises:
        ConfigurationError: The shape of one of its models is not known.
    """
    conversion = config.weight_conversion
    language = _language(config.weights, conversion.language.make_vocab_size_divisible_by)
    vision = _vision(config.weights, conversion.vision.feature_layer)
    return _combined(config.combine, language, vision)


def _language(weights: WeightsConfig, vocabulary_multiple: int) -> LanguageConfig:
    if weights.language_source == RANDOM:
        drawn = {
            **weights.language.fields,
            "model_type": weights.language.family,
            "rms_norm_eps": 1e-5,
            "vocab_size": weights.vocabulary,
        }
        return read_language(HfConfig(drawn, "weights.language"), vocabulary_multiple)
    return read_language(_source_config(weights.language_source, "language"), vocabulary_multiple)


def _vision(weights: WeightsConfig, feature_layer: int) -> VisionConfig:
    if weights.vision_source == RANDOM:
        drawn = {**weights.vision.fields, "model_type": weights.vision.family}
        return read_vision(HfConfig(drawn, "weights.vision"), feature_layer)
    return read_vision(_source_config(weights.vision_source, "vision"), feature_layer)


def _source_config(source: str, part: str) -> HfConfig:
    found = source_config(source)
    if found is None:
        raise ConfigurationError(
            f"weights.{part}_source {source} is not in the table of published shapes, so that nothing can be said of its size "
            "before it is fetched. Name a folder that has its config.json, as file:///FOLDER."
        )
    return found


def _combined(combine: CombineConfig, language: LanguageConfig, vision: VisionConfig) -> ModelConfig:
    chosen = combine.image.model_dump(exclude_none=True)
    return ModelConfig(
        language=language,
        vision=vision,
        projector=ProjectorConfig(
            depth=combine.projector.depth,
            ffn_hidden_size=combine.projector.ffn_hidden_size or language.hidden_size,
            activation=combine.projector.activation,
            bias=combine.projector.bias,
        ),
        image=ImageSettings(**{"size": vision.image_size, "patch": vision.patch_size, **chosen}),
        image_token_id=0,
    )


def _stage(config: RunConfig, model: ModelConfig, stage: str, training: TrainingConfig) -> StageEstimate:
    counts = parameters_of(model)
    whole = sum(count.total for count in counts.values())
    trained = sum(counts[part].total for part in training.recipe.trained_parts)
    # Frozen parts are not saved again.
    checkpoint = trained * (_BF16_BYTES + _STATE_BYTES)
    gpus = training.launch.nodes * training.launch.processes_per_node
    peak = bf16_peak(config.about.gpu) if config.about.gpu else None
    hours = None
    if peak is not None:
        hours = sample_flops(model, training) * samples_of(training.recipe) / (gpus * peak * UTILISATION) / 3600
    return StageEstimate(
        stage=stage,
        gpus=gpus,
        memory=estimate_memory(model, training),
        checkpoint=min(checkpoint, whole * (_BF16_BYTES + _STATE_BYTES)),
        kept=training.recipe.keep_checkpoints + 1,
        hours=hours,
    )


def samples_of(recipe: Recipe) -> int:
    """Return the samples that a training sees."""
    return recipe.iterations * recipe.global_batch_size


def sample_flops(model: ModelConfig, training: TrainingConfig) -> int:
    """Return the operations of a sample with a picture, what is computed twice included."""
    recipe = training.recipe
    captions = recipe.prompt_format == "plain"
    texts = TEXT_TOKENS[captions]
    tokens = model.image.tokens + texts
    # Of a caption everything is learnt, of a conversation about half.
    work = Work(tokens=tokens, pairs=tokens * (tokens + 1) // 2, answers=texts if captions else texts // 2, images=1)
    total = forward_flops(model, work) + backward_flops(model, work, recipe.trained_parts)
    if training.memory.recompute == "none":
        return total
    again = forward_flops(model, Work(tokens=tokens, pairs=work.pairs, answers=0, images=0))
    return total + (again if training.memory.recompute == "full" else again // 2)
