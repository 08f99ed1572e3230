"""Core attention on `scaled_dot_product_attention`: packed batches and pictures.

megatron-core's own `DotProductAttention` needs CUDA, and refuses packed input. This one plugs into the same place of
the layer (`SelfAttentionSubmodules.core_attention`) and runs everywhere.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from components.model.distributed import numbers_of_this_rank


@dataclass
class PackedLayout(PackedSeqParams):
    """megatron's packed-sequence parameters plus index tensors that are computed once per batch, not per layer.

    Attributes:
        samples: Number of samples S.
        slots: int64 [T], place of every token in the padded grid [S x max_seqlen].
    """

    samples: int = 0
    slots: Tensor | None = None


def packed_layout(cu_seqlens: Tensor, positions: Tensor, max_seqlen: int) -> PackedLayout:
    """Lay a packed batch out for attention.

    Args:
        cu_seqlens: int32 [S + 1], start of every sample and the end of the last.
        positions: int64 [T], position of every token within its sample.
        max_seqlen: Length of the longest sample.
    """
    samples = cu_seqlens.numel() - 1
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).to(torch.int64)
    first_slots = torch.arange(samples, device=cu_seqlens.device) * max_seqlen
    slots = torch.repeat_interleave(first_slots, lengths, output_size=positions.numel()) + positions
    return PackedLayout(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        max_seqlen_q=max_seqlen,
        max_seqlen_kv=max_seqlen,
        samples=samples,
        slots=slots,
    )


class _ToPadded(torch.autograd.Function):
    """[T, ...] to [places, ...] with zeros where no token stands; the gradient is a plain gather."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, slots: Tensor, places: int) -> Tensor:
        ctx.save_for_backward(slots)
        return packed.new_zeros(places, *packed.shape[1:]).index_copy_(0, slots, packed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return gradients[0].index_select(0, slots), None, None


class _ToPacked(torch.autograd.Function):
    """[places, ...] to [T, ...]: the inverse of `_ToPadded`; padding gets a zero gradient."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.places = padded.shape[0]
        return padded.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors
        gradient = gradients[0]
        return gradient.new_zeros(ctx.places, *gradient.shape[1:]).index_copy_(0, slots, gradient), None


class SdpaCoreAttention(nn.Module):
    """Core attention of one layer, without parameters.

    Packed input is laid out as a padded batch. Samples are padded on the right only, so a causal mask alone keeps
    padding out of every real token's view: the result is exact without a block-diagonal mask.

    Args:
        config: The layer's transformer configuration.
        layer_number: Part of megatron's interface, not needed.
        attn_mask_type: Causal (language) or none (vision).
        attention_type: Always "self" here.
        cp_comm_type: Part of megatron's interface; context parallel is not supported.
        softmax_scale: Scale of the scores; None for the usual 1 / sqrt(head width).
        pg_collection: Part of megatron's interface, not needed.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        cp_comm_type: str | None = None,
        softmax_scale: float | None = None,
        pg_collection: Any = None,
    ) -> None:
        super().__init__()
        self.causal = attn_mask_type == AttnMaskType.causal
        self.softmax_scale = softmax_scale
        self.dropout = config.attention_dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        *,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedLayout | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: [T, heads, width] when packed, else [sequence, batch, heads, width]; heads are this rank's.
            key: Like `query`, with this rank's groups instead of heads.
            value: Like `key`.
            attention_mask: Must be None: the mask follows from the layout.
            attn_mask_type: Part of megatron's interface; the constructor's value holds.
            attention_bias: Must be None.
            packed_seq_params: The batch's layout; None for a plain batch.

        Returns:
            [T, heads x width] when packed, else [sequence, batch, heads x width].
        """
        if attention_mask is not None or attention_bias is not None:
            raise ValueError("SdpaCoreAttention derives its mask from the layout; pass neither mask nor bias.")
        if packed_seq_params is None:
            query, key, value = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
            output = self._attend(query, key, value, causal=self.causal)
            return output.permute(2, 0, 1, 3).flatten(2)
        return self._packed(query, key, value, packed_seq_params)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        with numbers_of_this_rank(query.device) if dropout else contextlib.nullcontext():
            return F.scaled_dot_product_attention(
                query,
                key,
                value,
                dropout_p=dropout,
                is_causal=causal,
                scale=self.softmax_scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )

    def _packed(self, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout) -> Tensor:
        samples, longest = layout.samples, layout.max_seqlen_q
        places = samples * longest
        slots = layout.slots
        assert slots is not None

        def padded(tensor: Tensor) -> Tensor:
            # A batch of one sample, or of equally long ones, is its own grid.
            grid = tensor if tensor.shape[0] == places else _ToPadded.apply(tensor, slots, places)
            return grid.view(samples, longest, *tensor.shape[1:]).transpose(1, 2)

        query_grid, key_grid, value_grid = padded(query), padded(key), padded(value)
        output = self._attend(query_grid, key_grid, value_grid, causal=self.causal)
        flat = output.transpose(1, 2).reshape(places, -1)
        return flat if flat.shape[0] == query.shape[0] else _ToPacked.apply(flat, slots)
