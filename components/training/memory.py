"""How much memory of a GPU a training takes, worked out from its settings before anything runs.

Counted is what the engine keeps: parameters, the fp32 sums of gradients, master weights and moments, what the backward pass needs
of the largest micro-batch, logits, and the frozen tower's pictures. It is the sum of the tensors that live at the peak;
an allocator's fragments come on top, so that a card should be a twentieth larger.

What a layer keeps follows Korthikanti et al. 2022 (arXiv:2205.05198), for this model's layers and without the quadratic part of
the attention, which `scaled_dot_product_attention` computes again.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from components.model.config import LanguageConfig, ModelConfig, Part, VisionConfig
from components.model.parameters import Parameters, parameters_of
from components.training.config import Recipe, TrainingConfig
from components.training.frozen_tower import PICTURES_AT_ONCE

RUNTIME_BYTES = 2**30
"""CUDA's context, cuBLAS' workspaces and NCCL's buffers, about."""

_FP32 = 4
_MOMENTS = 2
_GRID = 1.25
"""Places of the attention's grid for each token: samples of one sequence are laid out as rows as long as the longest."""


@dataclass(frozen=True)
class MicroBatch:
    """A packed sequence.

    Attributes:
        tokens: Its tokens, image tokens included.
        answers: Tokens whose logits are computed.
        images: Pictures.
    """

    tokens: int
    answers: int
    images: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one GPU at the peak of a step.

    Attributes:
        weights: Parameters.
        gradients: Their fp32 sums, and the largest gradients as they come.
        optimizer: Master weights and moments.
        activations: What the backward pass needs of the language model, the projector, and of a tower that trains.
        logits: Logits and their gradient.
        passing: What one layer's backward pass takes beyond the logits, which are gone by then.
        pictures: Features of a frozen tower, and what it computes them with.
        runtime: What is there before the first tensor.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    passing: int
    pictures: int
    runtime: int = RUNTIME_BYTES

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())


def estimate_memory(config: ModelConfig, training: TrainingConfig) -> MemoryEstimate:
    """Estimate what a training takes of each GPU.

    Args:
        config: The architecture.
        training: Recipe, launch and memory settings.
    """
    batches = list(_largest_batches(config, training.recipe))
    return max((memory_of(config, training, batch) for batch in batches), key=lambda estimate: estimate.total)


def memory_of(
    config: ModelConfig, training: TrainingConfig, batch: MicroBatch, *, fused: bool = True
) -> MemoryEstimate:
    """Return what a training takes with a given micro-batch.

    Args:
        config: The architecture.
        training: Recipe, launch and memory settings.
        batch: The largest micro-batch.
        fused: Whether norms, activations and rotary positions are fused kernels, as on GPUs; plain layers keep more.
    """
    recipe, ranks = training.recipe, training.launch.tensor_parallel
    size = 2 if recipe.precision == "bf16" else _FP32
    counts = parameters_of(config)
    trained = {part: counts[part] for part in recipe.trained_parts}
    trained_here = sum(part.of_a_rank(ranks) for part in trained.values())
    states = trained_here * _FP32 * (_MOMENTS + (1 if size < _FP32 else 0))
    layers = _Layers(config.language, training, batch, size, fused)
    logits = batch.answers * config.language.padded_vocabulary_size // ranks
    # A gradient of bf16 logits stands beside their fp32 softmax, which becomes it.
    logits_bytes = logits * (_FP32 + (size if size < _FP32 else 0))
    activations = layers.kept + _projector_activations(config, batch, size)
    passing = max(layers.passing - logits_bytes, 0)
    pictures = 0
    if recipe.train_vision:
        activations += batch.images * _tower_activations(config.vision, fused) // ranks * size
    else:
        joined = max(batch.images, min(PICTURES_AT_ONCE, recipe.global_batch_size // training.launch.data_parallel))
        features, beside = _pictures(config.vision, joined if batch.images else 0, ranks, size)
        # They are seen before the language model has begun: the larger of the two counts.
        pictures = features + max(beside - activations - logits_bytes - passing, 0)
    return MemoryEstimate(
        weights=sum(part.of_a_rank(ranks) for part in counts.values()) * size,
        gradients=trained_here * _FP32 + _arriving(config, trained, ranks, size),
        optimizer=states // (training.launch.data_parallel if training.memory.shard_optimizer else 1),
        activations=activations,
        logits=logits_bytes,
        passing=passing,
        pictures=pictures,
    )


class _Layers:
    """Bytes of the language model's layers.

    Attributes:
        kept: What is kept until the backward pass.
        passing: What one layer's backward pass takes beside it.
    """

    def __init__(
        self, config: LanguageConfig, training: TrainingConfig, batch: MicroBatch, size: int, fused: bool
    ) -> None:
        recipe, ranks = training.recipe, training.launch.tensor_parallel
        trains = recipe.train_language
        if not (trains or recipe.train_vision or batch.images):
            self.kept = self.passing = 0  # texts alone have no backward pass
            return
        hidden, ffn = config.hidden_size, config.ffn_hidden_size // ranks
        queries = config.num_attention_heads * config.kv_channels // ranks
        groups = config.num_query_groups * config.kv_channels // ranks
        grid = _GRID if fused else 1
        # Input; queries, keys and values before and after they are turned; output.
        attention = hidden + queries + 2 * groups + grid * (2 * queries + groups)
        # Input; gate and up.
        mlp = hidden + 2 * ffn
        if config.qk_norm:
            attention += queries
        if trains:
            attention += hidden
            mlp += hidden + ffn
        if not fused:
            attention += 4 * config.kv_channels
            mlp += 2 * ffn
            if trains:
                attention += hidden + (queries + groups if config.qk_norm else 0)
                mlp += hidden
        # In fp32: what the softmax and the norms of a token leave.
        attention_bytes = attention * size + _FP32 * (config.num_attention_heads // ranks + 1)
        mlp_bytes = mlp * size + _FP32
        masks = 2 * hidden if recipe.hidden_dropout else 0
        backward = 2 * (ffn + hidden) * size
        kept, again = {
            "none": (attention_bytes + mlp_bytes + masks, 0.0),
            "selective": (attention_bytes + hidden * size + masks, mlp_bytes),
            "full": (hidden * size, attention_bytes + mlp_bytes + masks),
        }[training.memory.recompute]
        last = hidden * size * (1 if fused or not trains else 2)
        answered = hidden * size if trains else 0
        self.kept = int(batch.tokens * (config.num_layers * kept + last) + batch.answers * answered)
        self.passing = int(batch.tokens * (again + backward))


def _largest_batches(config: ModelConfig, recipe: Recipe) -> Iterator[MicroBatch]:
    """Yield a sequence full of pictures, and one of texts that are answers throughout, as long conversations nearly are."""
    tokens = recipe.sequence_length
    images = tokens // config.image.tokens
    yield MicroBatch(tokens, tokens - images * config.image.tokens, images)
    if recipe.prompt_format != "plain":
        yield MicroBatch(tokens, tokens, 0)


def _arriving(config: ModelConfig, trained: dict[Part, Parameters], ranks: int, size: int) -> int:
    """Return the bytes of gradients that are not in their sums yet: of one tensor, or of a tied embedding's two uses."""
    if size == _FP32:
        return 0
    tied = config.language.tied_embeddings and "language" in trained
    return max(part.largest for part in trained.values()) // ranks * size * (2 if tied else 1)


def _projector_activations(config: ModelConfig, batch: MicroBatch, size: int) -> int:
    first, *further = (inputs for inputs, _ in config.projector_layers)
    # Every layer's input, and that of the activation before it.
    return batch.images * config.image.tokens * (first + 2 * sum(further)) * size


def _tower_activations(config: VisionConfig, fused: bool) -> int:
    """Return the numbers that a tower which trains keeps of one picture."""
    gate = 1 if config.activation == "quick_gelu" or not fused else 0
    layer = 8 * config.hidden_size + (3 + gate) * config.ffn_hidden_size
    return config.places * layer * config.built_layers


def _pictures(config: VisionConfig, pictures: int, ranks: int, size: int) -> tuple[int, int]:
    """Return the bytes of a frozen tower's features, and of what it computes them with: pixels, and one layer."""
    features = pictures * config.patches * config.hidden_size * size
    pixels = pictures * 3 * config.image_size**2 * (_FP32 + size)
    wide = max(4 * config.hidden_size, 3 * config.ffn_hidden_size) // ranks
    layer = pictures * config.places * (2 * config.hidden_size + wide) * size
    return features, pixels + layer
