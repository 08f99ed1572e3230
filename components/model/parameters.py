"""How many parameters an architecture has, and how many of them one tensor-parallel rank holds; nothing is built for it."""

from dataclasses import dataclass

from components.model.config import LanguageConfig, ModelConfig, Part, VisionConfig


@dataclass(frozen=True)
class Parameters:
    """Parameters of a part.

    Attributes:
        split: Those that tensor parallelism spreads over the ranks.
        whole: Those that every rank holds.
        largest: The largest of one tensor.
    """

    split: int
    whole: int
    largest: int

    @property
    def total(self) -> int:
        """Parameters of the whole part."""
        return self.split + self.whole

    def of_a_rank(self, tensor_parallel: int) -> int:
        """Return the number that a rank holds."""
        return self.split // tensor_parallel + self.whole


def parameters_of(config: ModelConfig) -> dict[Part, Parameters]:
    """Count the parameters of every part of a model."""
    return {
        "vision": vision_parameters(config.vision),
        "projection": _projector(config),
        "language": language_parameters(config.language),
    }


def language_parameters(config: LanguageConfig) -> Parameters:
    """Count a language model's parameters; rows that pad its vocabulary are among them."""
    hidden, width, ffn = config.hidden_size, config.kv_channels, config.ffn_hidden_size
    vocabulary = config.padded_vocabulary_size * hidden
    attended = (config.num_attention_heads + 2 * config.num_query_groups) * width
    split = hidden * (attended + config.num_attention_heads * width + 3 * ffn)
    if config.qkv_bias:
        split += attended
    norms = 2 * hidden + (2 * width if config.qk_norm else 0)
    return Parameters(
        split=config.num_layers * split + (1 if config.tied_embeddings else 2) * vocabulary,
        whole=config.num_layers * norms + hidden,
        largest=max(vocabulary, 2 * hidden * ffn),
    )


def vision_parameters(config: VisionConfig) -> Parameters:
    """Count a vision tower's parameters up to its feature layer."""
    hidden, ffn = config.hidden_size, config.ffn_hidden_size
    patches, places = 3 * config.patch_size**2 * hidden, config.places * hidden
    embedding = patches + (hidden if config.patch_bias else 0) + places
    first = (hidden if config.class_token else 0) + (2 * hidden if config.pre_norm else 0)
    # Weights, and the biases of what is split by its rows; the biases of sums and the norms are every rank's.
    split = 4 * hidden**2 + 3 * hidden + 2 * hidden * ffn + ffn
    return Parameters(
        split=config.built_layers * split,
        whole=config.built_layers * 6 * hidden + embedding + first,
        largest=max(3 * hidden**2, hidden * ffn, patches, places),
    )


def _projector(config: ModelConfig) -> Parameters:
    weights = [inputs * outputs for inputs, outputs in config.projector_layers]
    biases = [outputs if config.projector.bias else 0 for _, outputs in config.projector_layers]
    # Layers are split by their outputs and by their inputs in turn; the bias of the latter is every rank's.
    return Parameters(split=sum(weights) + sum(biases[::2]), whole=sum(biases[1::2]), largest=max(weights))
