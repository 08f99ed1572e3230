"""Which modules a layer is made of: Transformer Engine's, or megatron-core's plain ones with SDPA attention.

Both give the same checkpoint keys: Transformer Engine holds a norm inside the linear layer that follows it, so the
plain layers' norms are stored under that name.
"""

import importlib.util
from typing import Any, Literal

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.torch_norm import WrappedTorchNorm
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from components.errors import ConfigurationError
from components.model.attention import SdpaCoreAttention
from components.model.recompute import LAYERS, Recompute

Backend = Literal["local", "transformer_engine"]

_STORED_NORM_NAMES = {
    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
    "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
}


def choose_backend(setting: Literal["auto", "local", "transformer_engine"]) -> Backend:
    """Return the layers to build.

    Args:
        setting: "auto" takes Transformer Engine where it is installed and there is a GPU.

    Raises:
        ConfigurationError: Transformer Engine is asked for and is not usable here.
    """
    usable = torch.cuda.is_available() and importlib.util.find_spec("transformer_engine") is not None
    if setting == "auto":
        return "transformer_engine" if usable else "local"
    if setting == "transformer_engine" and not usable:
        raise ConfigurationError(
            'Layers of "transformer_engine" need a GPU and the package transformer-engine (it is in the GPU image). '
            'Use "auto" or "local" here.'
        )
    return setting


def block_submodules(
    backend: Backend,
    num_layers: int,
    mask: AttnMaskType,
    recompute: Recompute = "none",
    *,
    qk_norm: bool = False,
) -> TransformerBlockSubmodules:
    """Return the modules of a transformer block.

    Args:
        backend: Which layers.
        num_layers: How many.
        mask: `causal` for the language model, `no_mask` for the vision tower.
        recompute: What the backward pass computes again.
        qk_norm: Whether queries and keys are normed.
    """
    if backend == "transformer_engine":
        layer, norm = _engine_layer(mask, qk_norm)
    else:
        layer, norm = _local_layer(mask, qk_norm), WrappedTorchNorm
    layer.module = LAYERS[recompute]
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=norm)


def linear_layers(backend: Backend) -> tuple[type, type]:
    """Return the linear layers that are split by their outputs (column) and by their inputs (row)."""
    if backend == "transformer_engine":
        from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TERowParallelLinear

        return TEColumnParallelLinear, TERowParallelLinear
    return ColumnParallelLinear, RowParallelLinear


def _local_layer(mask: AttnMaskType, qk_norm: bool) -> ModuleSpec:
    return _layer(
        mask,
        ColumnParallelLinear,
        RowParallelLinear,
        WrappedTorchNorm if qk_norm else None,
        input_layernorm=WrappedTorchNorm,
        pre_mlp_layernorm=WrappedTorchNorm,
        sharded_state_dict_keys_map=_STORED_NORM_NAMES,
    )


def _engine_layer(mask: AttnMaskType, qk_norm: bool) -> tuple[ModuleSpec, type]:
    from megatron.core.extensions.transformer_engine import TELayerNormColumnParallelLinear, TENorm, TERowParallelLinear

    # The norms are part of the linear layers that follow them. The attention is the plain layers': Transformer Engine's adds
    # the gradients of packed samples in no fixed order, and is no faster (tests/benchmarks/RESULTS.md).
    head_norm = TENorm if qk_norm else None
    return _layer(mask, TELayerNormColumnParallelLinear, TERowParallelLinear, head_norm), TENorm


def _layer(mask: AttnMaskType, column: type, row: type, head_norm: type | None, **norms: Any) -> ModuleSpec:
    """Return a transformer layer of an implementation's linear layers; `norms` are further submodules."""
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": mask},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=column,
                    core_attention=SdpaCoreAttention,
                    linear_proj=row,
                    q_layernorm=head_norm,
                    k_layernorm=head_norm,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            mlp=ModuleSpec(module=MLP, submodules=MLPSubmodules(linear_fc1=column, linear_fc2=row)),
            mlp_bda=get_bias_dropout_add,
            **norms,
        ),
    )
