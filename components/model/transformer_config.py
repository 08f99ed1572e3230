"""megatron-core's configuration of the three parts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from components.model.config import LanguageConfig, ModelConfig, VisionConfig
from components.model.layer_specs import Backend

DEFAULT_INIT_STD = 0.014


@dataclass(frozen=True)
class BuildSettings:
    """How the parts are built, whatever their architecture.

    Attributes:
        dtype: Type of the parameters.
        device: Where they lie.
        backend: Which layers.
        initialize: Draw the parameters; otherwise their memory is left as it is, for weights that are loaded.
        init_std: Standard deviation of drawn parameters.
    """

    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    backend: Backend = "local"
    initialize: bool = False
    init_std: float = DEFAULT_INIT_STD


def quick_gelu(values: Tensor) -> Tensor:
    """Return OpenAI's approximation of GELU; megatron-core's own is compiled, which needs a C++ compiler on CPUs."""
    return values * torch.sigmoid(1.702 * values)


_VISION_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


def language_transformer_config(
    config: LanguageConfig,
    settings: BuildSettings,
    *,
    hidden_dropout: float = 0.0,
    attention_dropout: float = 0.0,
) -> TransformerConfig:
    """Return the configuration of the language model's layers."""
    on_gpu = settings.device.type == "cuda"
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
        add_qkv_bias=config.qkv_bias,
        qk_layernorm=config.qk_norm,
        gated_linear_unit=True,
        activation_func=F.silu,
        hidden_dropout=hidden_dropout,
        attention_dropout=attention_dropout,
        # Fusions are compiled kernels that pay on GPUs only.
        bias_activation_fusion=on_gpu,
        bias_dropout_fusion=on_gpu,
        apply_rope_fusion=settings.backend == "transformer_engine",
        **_common(settings),
    )


def vision_transformer_config(config: VisionConfig, settings: BuildSettings) -> TransformerConfig:
    """Return the configuration of the vision tower's layers; it has no dropout."""
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
        activation_func=_VISION_ACTIVATIONS[config.activation],
        hidden_dropout=0.0,
        attention_dropout=0.0,
        **_common(settings),
    )


def projector_transformer_config(config: ModelConfig, settings: BuildSettings) -> TransformerConfig:
    """Return the configuration of the projector's layers."""
    return TransformerConfig(
        num_layers=1,
        num_attention_heads=config.language.num_attention_heads,
        hidden_size=config.language.hidden_size,
        ffn_hidden_size=config.projector.ffn_hidden_size,
        kv_channels=config.language.kv_channels,
        add_bias_linear=config.projector.bias,
        gated_linear_unit=False,
        activation_func=F.silu if config.projector.activation == "silu" else F.gelu,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        **_common(settings),
    )


def _common(settings: BuildSettings) -> dict[str, Any]:
    return {
        "tensor_model_parallel_size": parallel_state.get_tensor_model_parallel_world_size(),
        "params_dtype": settings.dtype,
        "bf16": settings.dtype == torch.bfloat16,
        "use_cpu_initialization": settings.device.type != "cuda",
        "perform_initialization": settings.initialize,
        "init_method_std": settings.init_std,
        "masked_softmax_fusion": False,
        "persist_layer_norm": False,
        "gradient_accumulation_fusion": False,
    }
