"""The multimodal model: vision tower, projector and language model on one packed sequence."""

from collections.abc import Iterable
from typing import Literal, Protocol

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from components.errors import ConfigurationError, StageError
from components.model.attention import packed_layout
from components.model.config import ModelConfig, Part
from components.model.distributed import gathered
from components.model.language import LanguageModel
from components.model.layer_specs import choose_backend
from components.model.projector import Projector
from components.model.recompute import Recompute
from components.model.streaming import outlined
from components.model.transformer_config import DEFAULT_INIT_STD, BuildSettings
from components.model.vision_tower import VisionTower

PARTIAL_GRADIENT = "partial_gradient"
"""Attribute of parameters that every tensor-parallel rank holds whole, but of whose gradient it computes a part."""


class TokenBatch(Protocol):
    """What the model reads of a packed batch; `components.data.packing.PackedBatch` has it.

    Attributes:
        tokens: int64 [T].
        positions: int64 [T], from 0 within every sample.
        cu_seqlens: int32 [S + 1], start of every sample and the end of the last.
        max_seqlen: Length of the longest sample.
        labels: int64 [T], the next token, or -100 where there is nothing to learn.
    """

    tokens: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    labels: Tensor


class VisionLanguageModel(MegatronModule):
    """Language model that reads pictures; parameter names are those of megatron-core's `LLaVAModel`.

    Image tokens arrive expanded (`ImageSettings.tokens` per picture); their places in the sequence are filled with projected features.

    Args:
        architecture: The whole model.
        language_model: The decoder.
        vision_model: The vision tower.
        vision_projection: The projector.
    """

    def __init__(
        self,
        architecture: ModelConfig,
        language_model: LanguageModel,
        vision_model: VisionTower,
        vision_projection: Projector,
    ) -> None:
        super().__init__(config=language_model.config)
        self.architecture = architecture
        self.language_model = language_model
        self.vision_model = vision_model
        self.vision_projection = vision_projection

    def freeze(self, parts: Iterable[Part]) -> None:
        """Leave the given parts out of training: they get no gradients, and frozen vision runs without autograd."""
        modules: dict[Part, nn.Module] = {
            "language": self.language_model,
            "vision": self.vision_model,
            "projection": self.vision_projection,
        }
        for part in parts:
            modules[part].requires_grad_(False)

    def forward(
        self,
        batch: TokenBatch,
        pixel_values: Tensor | None = None,
        *,
        features: Tensor | None = None,
        compute_loss: bool = False,
    ) -> Tensor:
        """Run the model over a packed batch.

        Args:
            batch: Tokens [T] of S samples, with `image_token_id` as often as a picture has tokens.
            pixel_values: [N, 3, size, size], normalised, in the order of the image tokens; None without pictures.
            features: What `vision_features` gave for the pictures, in place of `pixel_values`.
            compute_loss: Return the loss per token instead of logits.

        Returns:
            Logits [T, padded vocabulary / tensor-parallel size], minus infinity for padded rows; or the cross entropy
            per token, float32 [T], zero where the label is -100.

        Raises:
            StageError: Image tokens and pictures don't match, or a sample is longer than the model's positions.
        """
        layout = packed_layout(batch.cu_seqlens, batch.positions, batch.max_seqlen)
        if features is None and pixel_values is not None:
            features = self.vision_features(pixel_values)
        hidden = self.language_model.run_packed(self.embed_inputs(batch, features), batch.positions, layout)
        if compute_loss:
            return self.language_model.token_losses(hidden, batch.labels)
        return self.language_model.logits(hidden)

    def vision_features(self, pixel_values: Tensor) -> Tensor:
        """Return what the tower sees, [N, patches, hidden of the tower]; a frozen tower runs without autograd.

        Args:
            pixel_values: [N, 3, size, size], normalised.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_vision):
            features: Tensor = self.vision_model(pixel_values)
        return features

    @property
    def trains_vision(self) -> bool:
        """Whether any of the tower's parameters has a gradient."""
        return any(parameter.requires_grad for parameter in self.vision_model.parameters())

    def embed_inputs(self, batch: TokenBatch, features: Tensor | None, pictures: Tensor | None = None) -> Tensor:
        """Return the language model's input, [T, 1, hidden]: embedded text, and projected features for image tokens.

        Args:
            batch: The packed batch.
            features: What `vision_features` gave; None without pictures.
            pictures: int64, for every picture of the batch its row of `features`, where some are shown several times;
                None where `features` holds each as often as it is shown.

        Raises:
            StageError: Image tokens and pictures don't match.
        """
        image_places = (batch.tokens == self.architecture.image_token_id).nonzero().flatten()
        images = 0 if features is None else features.shape[0] if pictures is None else pictures.numel()
        if image_places.numel() != images * self.architecture.image.tokens:
            raise StageError(
                f"A batch has {image_places.numel()} image tokens, but {images} pictures of "
                f"{self.architecture.image.tokens} tokens each."
            )
        # The image token has no row of its own: any row stands in until the features replace it.
        embedded = self.language_model.embed(batch.tokens.index_fill(0, image_places, 0))
        if features is not None and images:
            projected: Tensor = self.vision_projection(features)
            if pictures is not None:
                projected = projected[pictures]
            embedded = embedded.index_copy(0, image_places, projected.flatten(0, 1)[:, None].to(embedded.dtype))
        return embedded


def build_model(
    config: ModelConfig,
    *,
    dtype: torch.dtype = torch.float32,
    hidden_dropout: float = 0.0,
    attention_dropout: float = 0.0,
    device: torch.device | None = None,
    layers: Literal["auto", "local", "transformer_engine"] = "auto",
    recompute: Recompute = "none",
    init_seed: int | None = None,
    init_std: float = DEFAULT_INIT_STD,
) -> VisionLanguageModel:
    """Build the model for this process's tensor-parallel rank.

    Parameters are left uninitialised, to be loaded, unless `init_seed` is given.

    Args:
        config: Architecture.
        dtype: Type of the parameters.
        hidden_dropout: Dropout of embedding and residual branches of the language model; the tower has none.
        attention_dropout: Dropout of the language model's attention weights.
        device: Where the parameters lie; None for the current GPU if there is one, else the CPU; "meta" for an outline
            without memory (see `outlined_model`).
        layers: Transformer Engine's layers or plain ones; "auto" takes the former where there are any.
        recompute: What of the language model the backward pass computes again, to save memory.
        init_seed: Draw all parameters from this seed; on CPU equally for every tensor-parallel size.
        init_std: Standard deviation of the drawn parameters.

    Returns:
        The model, in training mode.

    Raises:
        ConfigurationError: The architecture can't be split over the tensor-parallel ranks.
    """
    _check_divisible(config)
    if device is None:
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    settings = BuildSettings(
        dtype=dtype,
        device=device,
        backend=choose_backend(layers if device.type == "cuda" else "local"),
        initialize=init_seed is not None,
        init_std=init_std,
    )
    with torch.random.fork_rng(enabled=init_seed is not None):
        if init_seed is not None:
            torch.manual_seed(init_seed)
            if device.type == "cuda":
                tensor_parallel.model_parallel_cuda_manual_seed(init_seed)
        language_model = LanguageModel(
            config.language,
            settings,
            hidden_dropout=hidden_dropout,
            attention_dropout=attention_dropout,
            recompute=recompute,
        )
        vision_model = VisionTower(config.vision, settings)
        vision_projection = Projector(config, settings)
    model = VisionLanguageModel(config, language_model, vision_model, vision_projection).to(device=device, dtype=dtype)
    _mark_sharded_parameters(model)
    _mark_head_norms(model)
    return model


def outlined_model(config: ModelConfig, dtype: torch.dtype = torch.float32) -> VisionLanguageModel:
    """Build the model unsplit and with plain layers, as an outline without memory; see `components.model.streaming`."""
    return outlined(lambda: build_model(config, dtype=dtype, device=torch.device("meta"), layers="local"))


def gather_logits(logits: Tensor) -> Tensor:
    """Put the vocabulary parts of all tensor-parallel ranks together.

    Args:
        logits: This rank's part, [..., padded vocabulary / tensor-parallel size].

    Returns:
        [..., padded vocabulary] on every rank, without gradient. Padded rows are minus infinity: they never win.
    """
    return gathered(logits.detach())


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return this rank's number of parameters: "total" and "trained"."""
    parameters = list(model.parameters())
    return {
        "total": sum(parameter.numel() for parameter in parameters),
        "trained": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }


def _mark_sharded_parameters(model: nn.Module) -> None:
    """Set `tensor_model_parallel` on the weights that are split, which megatron-core does only while drawing them.

    Gradient norms depend on it: split weights are summed over ranks, replicated ones count once.
    """
    for module in model.modules():
        if isinstance(module, ColumnParallelLinear | VocabParallelEmbedding):
            dimension = 0
        elif isinstance(module, RowParallelLinear):
            dimension = 1
        else:
            continue
        weight = module.weight
        if weight is not None and not hasattr(weight, "tensor_model_parallel"):
            set_tensor_model_parallel_attributes(weight, is_parallel=True, dim=dimension, stride=1)


def _mark_head_norms(model: VisionLanguageModel) -> None:
    """Mark the norms of queries and keys: a rank's gradient is that of its own heads, and the sum is the parameter's."""
    if not model.architecture.language.qk_norm:
        return
    for layer in model.language_model.decoder.layers:
        for norm in (layer.self_attention.q_layernorm, layer.self_attention.k_layernorm):
            setattr(norm.weight, PARTIAL_GRADIENT, True)


def _check_divisible(config: ModelConfig) -> None:
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    language, vision = config.language, config.vision
    sizes = {
        "language.num_attention_heads": language.num_attention_heads,
        "language.num_query_groups": language.num_query_groups,
        "language.ffn_hidden_size": language.ffn_hidden_size,
        "language.padded_vocabulary_size": language.padded_vocabulary_size,
        "vision.num_attention_heads": vision.num_attention_heads,
        "vision.ffn_hidden_size": vision.ffn_hidden_size,
    }
    if config.projector.depth > 1:
        sizes["projector.ffn_hidden_size"] = config.projector.ffn_hidden_size
    if config.projector.depth % 2:
        sizes["language.hidden_size"] = language.hidden_size
    wrong = [f"{name} = {size}" for name, size in sizes.items() if size % ranks]
    if wrong:
        raise ConfigurationError(
            f"The model can't be split over {ranks} tensor-parallel ranks: {', '.join(wrong)} must be multiples of "
            f"{ranks}. Choose another tensor_parallel (or, for the vocabulary, convert the weights with another "
            "make_vocab_size_divisible_by)."
        )
