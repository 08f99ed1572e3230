"""Settings of a training stage: the recipe (what is learnt) and the launch (where)."""

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.data.prompt_text import PromptFormat
from components.launch.config import LaunchConfig

if TYPE_CHECKING:  # settings are read where nothing is computed
    from components.model.config import Part


class Recipe(BaseModel):
    """Everything that decides what is learnt; all of it enters the stage's content key.

    Attributes:
        train_language: Update the language model.
        train_vision: Update the vision tower.
        train_projector: Update the projector.
        prompt_format: "plain" trains captions right after the picture, "instruct" trains answers in the model's chat template.
        iterations (steps): Optimizer steps.
        global_batch_size (samples): Samples per optimizer step over all data-parallel ranks.
        sequence_length (tokens): Tokens (image and text) that one packed sequence holds at the most.
        learning_rate: Peak of the schedule.
        min_learning_rate: End of the cosine decay.
        warmup_fraction (fraction): Share of the iterations with linearly rising learning rate.
        weight_decay: AdamW's decoupled decay; biases and norms have none.
        adam_beta1: AdamW's first-moment decay.
        adam_beta2: AdamW's second-moment decay.
        adam_eps: AdamW's epsilon.
        clip_grad: Largest global gradient norm; 0 switches clipping off.
        hidden_dropout (fraction): Dropout on hidden states of the language model while training.
        attention_dropout (fraction): Dropout on its attention weights while training.
        precision: "bf16" keeps fp32 master weights for what trains; "fp32" is for CPUs.
        evaluation_interval (steps): Steps between two validation losses; 0 for none.
        evaluation_samples (samples): Validation samples used each time, at the most.
        caption_interval (steps): Steps between two evaluations that let the model describe held-out pictures; 0 for none.
        caption_samples (samples): Validation samples with a picture that are described each time.
        save_interval (steps): Steps between two checkpoints.
        keep_checkpoints: Number of newest training checkpoints that stay until the stage is finished.
        keep_every (steps): Checkpoints of every so many steps stay for good, as model folders `kept/step_*`; 0 for none.
        keep_best: Number of checkpoints with the lowest validation loss that stay for good likewise; the finished model
            is one of them if its loss is among the lowest.
        divergence_factor: Loss, as a multiple of its running median, that counts as too high; 0 watches for NaN alone.
        divergence_steps (steps): Steps in a row with such a loss that stop the run.
        log_interval (steps): Steps between two rows of metrics.
        shuffle_buffer (samples): Samples that the loader shuffles among.
        loader_workers: Loader processes per data-parallel rank; they decide the order of samples. A run that goes on with
            another number of data-parallel ranks keeps its order: it takes as many processes per rank as that needs.
        max_skip_share (fraction): Share of samples that may be skipped because they can't be used, from 0 to 1; more stops the run.
        seed: Seed of sample order and dropout.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_language: bool
    train_vision: bool
    train_projector: bool = True
    prompt_format: PromptFormat
    iterations: int = Field(ge=1)
    global_batch_size: int = Field(ge=1)
    sequence_length: int = Field(ge=8)
    learning_rate: float = Field(gt=0)
    min_learning_rate: float = Field(ge=0)
    warmup_fraction: float = Field(default=0.01, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    adam_eps: float = Field(default=1e-8, gt=0)
    clip_grad: float = Field(default=1.0, ge=0)
    hidden_dropout: float = Field(default=0.0, ge=0, lt=1)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    evaluation_interval: int = Field(default=0, ge=0)
    evaluation_samples: int = Field(default=128, ge=1)
    caption_interval: int = Field(default=0, ge=0)
    caption_samples: int = Field(default=16, ge=2)
    save_interval: int = Field(ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    keep_every: int = Field(default=0, ge=0)
    keep_best: int = Field(default=0, ge=0)
    divergence_factor: float = Field(default=0.0, ge=0)
    divergence_steps: int = Field(default=10, ge=1)
    log_interval: int = Field(default=10, ge=1)
    shuffle_buffer: int = Field(default=1000, ge=1)
    loader_workers: int = Field(default=0, ge=0)
    max_skip_share: float = Field(default=0.01, ge=0, le=1)
    seed: int = 1234

    @property
    def trained_parts(self) -> "set[Part]":
        """The parts of the model that are updated."""
        trains: dict[Part, bool] = {
            "language": self.train_language,
            "vision": self.train_vision,
            "projection": self.train_projector,
        }
        return {part for part, is_trained in trains.items() if is_trained}

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if not (self.train_language or self.train_vision or self.train_projector):
            raise ValueError("nothing is trained: set train_language, train_vision or train_projector to true")
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate ({self.min_learning_rate}) is above learning_rate ({self.learning_rate})"
            )
        if self.keep_every % self.save_interval:
            raise ValueError(
                f"keep_every ({self.keep_every}) must be a multiple of save_interval ({self.save_interval}): only "
                "checkpoints that are saved can be kept"
            )
        if self.keep_best and (not self.evaluation_interval or self.save_interval % self.evaluation_interval):
            raise ValueError(
                f"keep_best needs the validation loss of every checkpoint: save_interval ({self.save_interval}) must be "
                f"a multiple of evaluation_interval ({self.evaluation_interval}), which must not be 0"
            )
        if 0 < self.divergence_factor <= 1:
            raise ValueError(f"divergence_factor ({self.divergence_factor}) must be above 1, or 0 for none")
        return self


class MemoryConfig(BaseModel):
    """How memory is saved, of devices and hosts; it changes the speed and not what is learnt, and may change in a run that goes on.

    Attributes:
        recompute: What of the language model the backward pass computes again instead of keeping it: "none"; "selective",
            the MLPs; "full", whole layers (a third more work).
        shard_optimizer: Spread master weights and moments over the data-parallel ranks (ZeRO stage 1).
        background_saving: Copy a checkpoint to host memory and write it while training goes on. Without, steps wait for the
            disk, and hosts need no memory for copies.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recompute: Literal["none", "selective", "full"] = "none"
    shard_optimizer: bool = False
    background_saving: bool = True


class TrainingConfig(BaseModel):
    """Settings of a training stage.

    Attributes:
        recipe: What is learnt.
        launch: Where it runs; another launch continues and reuses the same work.
        memory: How it fits into the devices; another choice continues and reuses the same work.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Recipe
    launch: LaunchConfig = LaunchConfig()
    memory: MemoryConfig = MemoryConfig()

    @model_validator(mode="after")
    def _batch_divides(self) -> "TrainingConfig":
        if self.recipe.global_batch_size % self.launch.data_parallel:
            raise ValueError(
                f"recipe.global_batch_size ({self.recipe.global_batch_size}) must be a multiple of the number of "
                f"data-parallel ranks ({self.launch.data_parallel} = nodes x processes_per_node / tensor_parallel)"
            )
        return self
