"""The multimodal model: vision tower, projector and language model on one packed sequence."""

import itertools
from collections.abc import Iterable
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.fusions.fused_bias_geglu import quick_gelu
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.models.vision.multimodal_projector import MultimodalProjector
from megatron.core.transformer.enums import AttnMaskType, ModelType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from components.errors import ConfigurationError, StageError
from components.model.attention import KeyValueCache, PackedLayout, decoding_layout, packed_layout
from components.model.clip import ClipVisionTower
from components.model.config import LanguageConfig, ModelConfig, ProjectorConfig, VisionConfig
from components.model.layer_specs import Backend, block_submodules, choose_backend, projector_submodules

IGNORED_LABEL = -100
DEFAULT_INIT_STD = 0.014

Part = Literal["language", "vision", "projection"]


class TokenBatch(Protocol):
    """What the model reads of a packed batch (`components.data.packing.PackedBatch`)."""

    @property
    def tokens(self) -> Tensor: ...
    @property
    def positions(self) -> Tensor: ...
    @property
    def cu_seqlens(self) -> Tensor: ...
    @property
    def max_seqlen(self) -> int: ...
    @property
    def labels(self) -> Tensor: ...


class VisionLanguageModel(MegatronModule):
    """Language model that reads pictures; parameter names are those of megatron-core's `LLaVAModel`.

    Image tokens arrive expanded (one per patch); their places in the sequence are filled with projected features.

    Args:
        config: megatron's configuration of the language model.
        architecture: The whole model.
        language_model: The decoder.
        vision_model: The vision tower.
        vision_projection: The projector.
        backend: Which layers the parts were built with.
    """

    def __init__(
        self,
        config: TransformerConfig,
        architecture: ModelConfig,
        language_model: GPTModel,
        vision_model: ClipVisionTower,
        vision_projection: MultimodalProjector,
        backend: Backend,
    ) -> None:
        super().__init__(config=config)
        self.architecture = architecture
        self.backend = backend
        self.model_type = ModelType.encoder_or_decoder
        self.pre_process = self.post_process = True
        self.share_embeddings_and_output_weights = architecture.language.tied_embeddings
        self.language_model = language_model
        self.vision_model = vision_model
        self.vision_projection = vision_projection

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Part of megatron's schedule interface; there is nothing to set without pipeline parallel."""

    def freeze(self, parts: Iterable[Part]) -> None:
        """Leave the given parts out of training: they get no gradients, and frozen vision runs without autograd."""
        modules: dict[Part, nn.Module] = {
            "language": self.language_model,
            "vision": self.vision_model,
            "projection": self.vision_projection,
        }
        for part in parts:
            modules[part].requires_grad_(False)

    def forward(self, batch: TokenBatch, pixel_values: Tensor | None = None, *, compute_loss: bool = False) -> Tensor:
        """Run the model over a packed batch.

        Args:
            batch: Tokens [T] of S samples, with `image_token_id` for every patch.
            pixel_values: [N, 3, size, size], normalised, in the order of the image tokens; None without pictures.
            compute_loss: Return the loss per token instead of logits.

        Returns:
            Logits [T, padded vocabulary / tensor-parallel size], minus infinity for padded rows; or the cross entropy
            per token, float32 [T], zero where the label is -100.

        Raises:
            StageError: Image tokens and pictures don't match.
        """
        layout = packed_layout(batch.cu_seqlens, batch.positions, batch.max_seqlen)
        hidden = self._hidden_states(batch, pixel_values, layout)
        return self._loss(hidden, batch.labels) if compute_loss else self._logits(hidden)

    @torch.no_grad()
    def start_decoding(
        self, batch: TokenBatch, pixel_values: Tensor | None, max_new_tokens: int
    ) -> tuple[Tensor, KeyValueCache]:
        """Read the prompts of a batch and keep their keys and values (layers of the backend "local" only).

        Args:
            batch: The prompts, packed.
            pixel_values: Their pictures, as in `forward`.
            max_new_tokens: Most tokens that `decode` will be given per sample.

        Returns:
            Logits of the token after every prompt, [S, padded vocabulary / tensor-parallel size], and the cache.

        Raises:
            ConfigurationError: The model was built with Transformer Engine's layers.
        """
        if self.backend != "local":
            raise ConfigurationError('Decoding with a cache needs a model built with the backend "local".')
        lengths = (batch.cu_seqlens[1:] - batch.cu_seqlens[:-1]).to(torch.int64)
        cache = KeyValueCache(capacity=batch.max_seqlen + max_new_tokens, lengths=lengths)
        layout = packed_layout(batch.cu_seqlens, batch.positions, batch.max_seqlen, cache)
        hidden = self._hidden_states(batch, pixel_values, layout)
        last_tokens = batch.cu_seqlens[1:].to(torch.int64) - 1
        return self._logits(hidden[last_tokens]), cache

    @torch.no_grad()
    def decode(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Append one text token to every sample of the cache.

        Args:
            tokens: int64 [S].
            cache: From `start_decoding`; one token longer afterwards.

        Returns:
            Logits of the next token, [S, padded vocabulary / tensor-parallel size].

        Raises:
            StageError: The cache is full.
        """
        if int(cache.lengths.max()) >= cache.capacity:
            raise StageError(f"The cache holds {cache.capacity} tokens per sample and is full.")
        embedded = self.language_model.embedding(input_ids=tokens[None], position_ids=None)
        angles = self._rotary_angles(cache.capacity)[cache.lengths]
        hidden = self._decoder(embedded, angles, decoding_layout(cache))
        cache.lengths = cache.lengths + 1
        return self._logits(hidden)

    def _hidden_states(self, batch: TokenBatch, pixel_values: Tensor | None, layout: PackedLayout) -> Tensor:
        image_places = (batch.tokens == self.architecture.image_token_id).nonzero().flatten()
        text_tokens = batch.tokens.index_fill(0, image_places, 0)
        embedded = self.language_model.embedding(input_ids=text_tokens[None], position_ids=None)
        images = 0 if pixel_values is None else pixel_values.shape[0]
        if image_places.numel() != images * self.architecture.image.tokens:
            raise StageError(
                f"A batch has {image_places.numel()} image tokens, but {images} pictures of "
                f"{self.architecture.image.tokens} tokens each."
            )
        if pixel_values is not None and images:
            features = self._image_features(pixel_values).to(embedded.dtype)
            embedded = embedded.index_copy(0, image_places, features)
        angles = self._rotary_angles(batch.max_seqlen)
        if self.backend == "local":
            angles = angles[batch.positions]
        return self._decoder(embedded, angles, layout)

    def _image_features(self, pixel_values: Tensor) -> Tensor:
        """Return the projected features of all patches, [N x patches, 1, hidden of the language model]."""
        trained = any(parameter.requires_grad for parameter in self.vision_model.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            features = self.vision_model(pixel_values.to(self.vision_model.conv1.weight.dtype))
        projected: Tensor = self.vision_projection(features.reshape(-1, 1, features.shape[-1]))
        return projected

    def _rotary_angles(self, length: int) -> Tensor:
        """Return the rotary angles of positions 0..length-1, float32 [length, 1, 1, head width]."""
        # The module's own forward moves the frequencies to the current CUDA device, whatever the model runs on.
        angles = self.language_model.rotary_pos_emb.get_freqs_non_repeated(length)
        return torch.cat([angles, angles], dim=-1)[:, None, None, :]

    def _decoder(self, embedded: Tensor, angles: Tensor, layout: PackedLayout) -> Tensor:
        """Run the decoder layers on [T, 1, hidden]; return [T, hidden]."""
        hidden: Tensor = self.language_model.decoder(
            hidden_states=embedded, attention_mask=None, rotary_pos_emb=angles, packed_seq_params=layout
        )
        return hidden.squeeze(1)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Return this rank's logits [.., padded vocabulary / tensor-parallel size], padded rows at minus infinity."""
        shared = None
        if self.share_embeddings_and_output_weights:
            shared = self.language_model.shared_embedding_or_output_weight()
        logits: Tensor = self.language_model.output_layer(hidden, weight=shared)[0]
        first_padded = self.architecture.language.vocabulary_size - self._first_vocabulary_row(logits.shape[-1])
        if first_padded < logits.shape[-1]:
            # In place: nothing in the output layer's backward reads its output.
            logits[..., max(first_padded, 0) :] = float("-inf")
        return logits

    def _loss(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy per token; logits are computed only where there is a label."""
        places = (labels != IGNORED_LABEL).nonzero().flatten()
        if places.numel() == 0:
            # Every parameter still gets a (zero) gradient, and every rank the same collectives.
            return hidden.sum(dim=-1).float() * 0.0
        losses = tensor_parallel.vocab_parallel_cross_entropy(self._logits(hidden[places]).float(), labels[places])
        return losses.new_zeros(labels.shape[0]).index_copy(0, places, losses)

    @staticmethod
    def _first_vocabulary_row(rows_per_rank: int) -> int:
        return rows_per_rank * parallel_state.get_tensor_model_parallel_rank()


def build_model(
    config: ModelConfig,
    *,
    dtype: torch.dtype = torch.float32,
    hidden_dropout: float = 0.0,
    attention_dropout: float = 0.0,
    device: torch.device | None = None,
    layers: Literal["auto", "local", "transformer_engine"] = "auto",
    recompute: bool = False,
    init_seed: int | None = None,
    init_std: float = DEFAULT_INIT_STD,
) -> VisionLanguageModel:
    """Build the model for this process's tensor-parallel rank. Parameters are uninitialised unless `init_seed` is given.

    Args:
        config: Architecture.
        dtype: Type of the parameters.
        hidden_dropout: Dropout of embedding and residual branches of the language model; the tower has none.
        attention_dropout: Dropout of the language model's attention weights.
        device: Where the parameters lie; None for the current GPU if there is one, else the CPU.
        layers: Transformer Engine's layers or plain ones; decoding with a cache needs "local".
        recompute: Recompute the language model's layers in the backward pass, to save memory.
        init_seed: Draw all parameters from this seed, equally for every tensor-parallel size.
        init_std: Standard deviation of the drawn parameters.

    Returns:
        The model, in training mode.

    Raises:
        ConfigurationError: The architecture can't be split over the tensor-parallel ranks.
    """
    place = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    common = _CommonSettings(dtype, place, choose_backend(layers if place.type == "cuda" else "local"), init_std)
    _check_divisible(config)
    with torch.random.fork_rng(enabled=init_seed is not None):
        if init_seed is not None:
            torch.manual_seed(init_seed)
            if place.type == "cuda":
                tensor_parallel.model_parallel_cuda_manual_seed(init_seed)
        common.initialize = init_seed is not None
        language_config = _language_transformer_config(config.language, common, hidden_dropout, attention_dropout)
        if recompute:
            language_config.recompute_granularity = "full"
            language_config.recompute_method = "uniform"
            language_config.recompute_num_layers = 1
        language_model = _build_language_model(config.language, language_config, common)
        vision_model = _build_vision_model(config.vision, common)
        projector_config = _projector_transformer_config(config, common)
        vision_projection = MultimodalProjector(
            projector_config, projector_submodules(common.backend), "mlp", config.vision.hidden_size
        )
        model = VisionLanguageModel(
            language_config, config, language_model, vision_model, vision_projection, common.backend
        )
    return model.to(device=place, dtype=dtype)


def build_language_model(config: LanguageConfig, *, dtype: torch.dtype = torch.float32) -> GPTModel:
    """Build the language model alone, on the CPU with plain layers and uninitialised parameters (for conversion)."""
    common = _CommonSettings(dtype, torch.device("cpu"), "local", DEFAULT_INIT_STD)
    return _build_language_model(config, _language_transformer_config(config, common, 0.0, 0.0), common).to(dtype)


def build_vision_model(config: VisionConfig, *, dtype: torch.dtype = torch.float32) -> ClipVisionTower:
    """Build the vision tower alone, on the CPU with plain layers and uninitialised parameters (for conversion)."""
    return _build_vision_model(config, _CommonSettings(dtype, torch.device("cpu"), "local", DEFAULT_INIT_STD)).to(dtype)


def gather_logits(logits: Tensor) -> Tensor:
    """Put the vocabulary parts of all tensor-parallel ranks together.

    Args:
        logits: This rank's part, [..., padded vocabulary / tensor-parallel size].

    Returns:
        [..., padded vocabulary] on every rank. Padded rows are minus infinity: they never win.
    """
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1:
        return logits
    own = logits.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(group.size())]
    torch.distributed.all_gather(parts, own, group=group)
    return torch.cat(parts, dim=-1)


class _CommonSettings:
    """What the configurations of all three parts share."""

    def __init__(self, dtype: torch.dtype, device: torch.device, backend: Backend, init_std: float) -> None:
        self.dtype = dtype
        self.device = device
        self.backend = backend
        self.init_std = init_std
        self.initialize = False

    def arguments(self) -> dict[str, Any]:
        """Arguments of every `TransformerConfig`."""
        return {
            "tensor_model_parallel_size": parallel_state.get_tensor_model_parallel_world_size(),
            "params_dtype": self.dtype,
            "bf16": self.dtype == torch.bfloat16,
            "use_cpu_initialization": self.device.type == "cpu",
            "perform_initialization": self.initialize,
            "init_method_std": self.init_std,
            "masked_softmax_fusion": False,
            "persist_layer_norm": False,
            "gradient_accumulation_fusion": False,
        }


def _language_transformer_config(
    config: LanguageConfig, common: _CommonSettings, hidden_dropout: float, attention_dropout: float
) -> TransformerConfig:
    on_gpu = common.device.type == "cuda"
    return TransformerConfig(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.ffn_hidden_size,
        num_attention_heads=config.num_attention_heads,
        num_query_groups=config.num_query_groups,
        kv_channels=config.kv_channels,
        normalization="RMSNorm",
        layernorm_epsilon=config.norm_epsilon,
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=F.silu,
        hidden_dropout=hidden_dropout,
        attention_dropout=attention_dropout,
        # Fusions are compiled kernels that pay on GPUs only.
        bias_activation_fusion=on_gpu,
        bias_dropout_fusion=on_gpu,
        apply_rope_fusion=common.backend == "transformer_engine",
        **common.arguments(),
    )


def _vision_transformer_config(config: VisionConfig, common: _CommonSettings) -> TransformerConfig:
    return TransformerConfig(
        num_layers=config.built_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.ffn_hidden_size,
        num_attention_heads=config.num_attention_heads,
        normalization="LayerNorm",
        layernorm_epsilon=config.norm_epsilon,
        add_bias_linear=True,
        add_qkv_bias=True,
        gated_linear_unit=False,
        activation_func=quick_gelu if config.activation == "quick_gelu" else F.gelu,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        **common.arguments(),
    )


def _projector_transformer_config(config: ModelConfig, common: _CommonSettings) -> TransformerConfig:
    projector: ProjectorConfig = config.projector
    return TransformerConfig(
        num_layers=1,
        num_attention_heads=config.language.num_attention_heads,
        hidden_size=config.language.hidden_size,
        ffn_hidden_size=projector.ffn_hidden_size,
        kv_channels=config.language.kv_channels,
        add_bias_linear=False,
        gated_linear_unit=False,
        activation_func=F.silu if projector.activation == "silu" else F.gelu,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        **common.arguments(),
    )


def _build_language_model(config: LanguageConfig, transformer: TransformerConfig, common: _CommonSettings) -> GPTModel:
    return GPTModel(
        config=transformer,
        transformer_layer_spec=block_submodules(common.backend, config.num_layers, AttnMaskType.causal),
        vocab_size=config.padded_vocabulary_size,
        max_sequence_length=config.max_position_embeddings,
        parallel_output=True,
        share_embeddings_and_output_weights=config.tied_embeddings,
        position_embedding_type="rope",
        rotary_base=config.rotary_base,
    )


def _build_vision_model(config: VisionConfig, common: _CommonSettings) -> ClipVisionTower:
    tower = ClipVisionTower(_vision_transformer_config(config, common), config, common.backend)
    if common.initialize:
        tower.initialize(common.init_std)
    return tower


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
        "projector.ffn_hidden_size": config.projector.ffn_hidden_size,
    }
    wrong = [f"{name} = {size}" for name, size in sizes.items() if size % ranks]
    if wrong:
        raise ConfigurationError(
            f"The model can't be split over {ranks} tensor-parallel ranks: {', '.join(wrong)} must be multiples of "
            f"{ranks}. Choose another tensor_parallel (or, for the vocabulary, convert the weights with another "
            "make_vocab_size_divisible_by)."
        )


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return this rank's number of parameters: "total" and "trained"."""
    parameters = list(itertools.chain(model.parameters()))
    return {
        "total": sum(parameter.numel() for parameter in parameters),
        "trained": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }
