"""Floating-point operations of a training step: what the model asks for, whatever the kernels do.

A matrix product of [m, k] and [k, n] counts 2 m k n. Its backward is a product of the same size for the gradient of its
input, and one for the gradient of its weight; a frozen weight has none, and nothing is counted below the first part
that trains. Attention counts the pairs of tokens that the causal mask leaves, forward twice (scores, values) and backward
four times. Norms, activations, embeddings and the optimizer are left out, and so is what is computed twice (recomputed
layers) or in vain (padding): the count of Narayanan et al. 2021 (arXiv:2104.04473) and Chowdhery et al. 2022
(arXiv:2204.02311, appendix B), but for the frozen parts and the causal half.
"""

from collections.abc import Collection
from dataclasses import dataclass

from components.model.config import LanguageConfig, ModelConfig, Part, VisionConfig


@dataclass(frozen=True)
class Work:
    """What packed batches ask the model for.

    Attributes:
        tokens: Tokens of the language model, image tokens included.
        pairs: Pairs of a token and one that it attends to, itself included: L (L + 1) / 2 for a sample of L tokens.
        answers: Tokens whose logits are computed.
        images: Pictures.
    """

    tokens: int
    pairs: int
    answers: int
    images: int


@dataclass(frozen=True)
class _Products:
    """Operations of the forward pass.

    Attributes:
        weighted: Of products with a weight.
        attention: Of products of activations with each other.
        first: The share of `weighted` whose input is no activation of this part: pixels, or another part's output.
    """

    weighted: int
    attention: int
    first: int


def forward_flops(config: ModelConfig, work: Work) -> int:
    """Return the operations of the forward pass of the whole model."""
    parts = _parts(config, work)
    return sum(products.weighted + products.attention for products in parts.values())


def backward_flops(config: ModelConfig, work: Work, trained: Collection[Part]) -> int:
    """Return the operations of the backward pass.

    Args:
        config: The architecture.
        work: The batches that have a gradient: without a picture, only a trained language model has one.
        trained: The parts whose weights get gradients.
    """
    total = 0
    reached = False  # whether gradients have to flow on to a part before
    for part, products in _parts(config, work).items():  # from the pixels to the loss
        trains = part in trained
        if trains:
            total += products.weighted
        if trains or reached:
            total += products.weighted + 2 * products.attention
        if trains and not reached:
            # Nothing before this part trains: the inputs of its first products need no gradient.
            total -= products.first
        reached = reached or trains
    return total


def _parts(config: ModelConfig, work: Work) -> dict[Part, _Products]:
    """Return every part's products in the order of the forward pass."""
    image_tokens = work.images * config.image.tokens
    projector = [2 * image_tokens * inputs * outputs for inputs, outputs in config.projector_layers]
    return {
        "vision": _vision(config.vision, work.images),
        "projection": _Products(weighted=sum(projector), attention=0, first=projector[0]),
        "language": _language(config.language, work),
    }


def _vision(config: VisionConfig, images: int) -> _Products:
    hidden = config.hidden_size
    tokens = images * config.places
    convolution = 2 * images * config.patches * 3 * config.patch_size**2 * hidden
    layer = 2 * tokens * (4 * hidden**2 + 2 * hidden * config.ffn_hidden_size)
    attention = 4 * tokens * config.places * hidden
    return _Products(
        weighted=convolution + config.built_layers * layer,
        attention=config.built_layers * attention,
        first=convolution,
    )


def _language(config: LanguageConfig, work: Work) -> _Products:
    hidden = config.hidden_size
    heads_width = config.num_attention_heads * config.kv_channels
    groups_width = config.num_query_groups * config.kv_channels
    # Query, key and value, output projection; gate, up and down of the gated MLP.
    per_token = hidden * (2 * heads_width + 2 * groups_width) + 3 * hidden * config.ffn_hidden_size
    layers = 2 * work.tokens * per_token * config.num_layers
    logits = 2 * work.answers * hidden * config.padded_vocabulary_size
    # The first product's input comes from the embedding, which trains with the rest: it needs its gradient.
    return _Products(
        weighted=layers + logits,
        attention=4 * work.pairs * heads_width * config.num_layers,
        first=0,
    )
