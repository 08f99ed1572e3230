"""Where the tokens of a packed batch of prompts stand: in the sequence, in their prompts, and in the cache of keys and values."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.attention import PackedLayout, packed_layout
from components.model.shared_prompts import Beginnings
from components.model.vlm import TokenBatch


@dataclass(frozen=True)
class RestPlaces:
    """Where the rests of prompts stand.

    Attributes:
        longest: Tokens of the longest rest.
        longest_prompt: Tokens of the longest prompt.
        slots: int64 [tokens of all rests], places in a grid of [S x longest] in which all rests end at the right.
    """

    longest: int
    longest_prompt: int
    slots: Tensor


class Reading:
    """The places of a batch's tokens.

    Args:
        batch: Prompts, packed; or beginnings and rests of prompts.
        beginnings: Which are which; None where each sample is a prompt.

    Attributes:
        lengths: int64 [S], tokens of every prompt.
        longest: The largest of them.
        equally_long: Whether all are equal.
        positions: int64 [T], place of every token of the batch in its prompt.
        ends: int64 [S], place in the batch of every prompt's last token.
        packed_tokens: Tokens of the batch that attend to their own sample alone: all, or those of the beginnings.
        layout: How these are laid out.
        rests: Where the other tokens stand; None for no others.
    """

    def __init__(self, batch: TokenBatch, beginnings: Beginnings | None) -> None:
        bounds = batch.cu_seqlens.to(torch.int64)
        sizes = bounds[1:] - bounds[:-1]
        self._source: Tensor | None = None
        self.rests: RestPlaces | None = None
        self.layout: PackedLayout
        if beginnings is None:
            self.lengths, self.longest = sizes, batch.max_seqlen
            self.equally_long = sizes.numel() * batch.max_seqlen == batch.tokens.numel()
            self.positions, self.ends = batch.positions, bounds[1:] - 1
            self.packed_tokens = batch.tokens.numel()
            self.layout = packed_layout(batch.cu_seqlens, batch.positions, batch.max_seqlen)
            self._owners, self._places = _places(self.lengths, batch.tokens.numel())
            return
        count, of = beginnings.count, torch.tensor(beginnings.of, device=bounds.device)
        begun, rests = sizes[:count][of], sizes[count:]
        self.lengths, self.longest = begun + rests, beginnings.longest_prompt
        total = batch.tokens.numel() - beginnings.tokens + int(begun.sum())
        self.equally_long = self.lengths.numel() * self.longest == total
        offsets = torch.repeat_interleave(begun, rests, output_size=batch.tokens.numel() - beginnings.tokens)
        self.positions = torch.cat(
            [batch.positions[: beginnings.tokens], batch.positions[beginnings.tokens :] + offsets]
        )
        self.ends = bounds[count + 1 :] - 1
        self.packed_tokens = beginnings.tokens
        self.layout = packed_layout(
            batch.cu_seqlens[: count + 1], batch.positions[: beginnings.tokens], beginnings.longest
        )
        self._owners, self._places = _places(self.lengths, total)
        before, within = begun[self._owners], self._places
        self._source = torch.where(
            within < before, bounds[:count][of][self._owners] + within, bounds[count:-1][self._owners] + within - before
        )
        owners, places = _places(rests, batch.tokens.numel() - beginnings.tokens)
        right = beginnings.longest_rest - rests
        self.rests = RestPlaces(
            beginnings.longest_rest, self.longest, owners * beginnings.longest_rest + right[owners] + places
        )

    def slots(self, first: Tensor, width: int) -> Tensor:
        """Return the places of all prompts' tokens in a cache of [S x width].

        Args:
            first: int64 [S], where a prompt begins.
            width: Places of a prompt.
        """
        return self._owners * width + first[self._owners] + self._places

    def of_prompts(self, rows: Tensor) -> Tensor:
        """Return rows of the batch's tokens as rows of the prompts' tokens: what several begin with stands in each."""
        return rows if self._source is None else rows[self._source]


class ParallelRests:
    """Attention of the rests of prompts to their whole prompts.

    All prompts end at the same place of the cache, and so do all rests: a column of the grid is one place.

    Args:
        places: Where the rests stand.
        first: int64 [S], where a prompt begins in the cache.
    """

    def __init__(self, places: RestPlaces, first: Tensor) -> None:
        self._slots, self._columns, self._samples = places.slots, places.longest, first.numel()
        keys = torch.arange(places.longest_prompt, device=first.device)
        queries = keys[places.longest_prompt - places.longest :]
        # A place before a prompt's first sees itself, so that no row is empty; nothing reads it.
        since = torch.minimum(first[:, None], queries[None, :])
        self._mask = (keys >= since[..., None]) & (keys <= queries[:, None])

    def attend(self, query: Tensor, cache: Tensor) -> Tensor:
        """Return what the rests' tokens find, [tokens, heads x width].

        Args:
            query: [tokens, groups, heads of a group, width].
            cache: Keys and values of the whole prompts, [2, S, places, groups, width].
        """
        groups, heads, width = query.shape[1:]
        grid = query.new_zeros(self._samples * self._columns, groups, heads, width).index_copy_(0, self._slots, query)
        # The heads of a group see the same keys: they stand beside the columns.
        asked = grid.view(self._samples, self._columns, groups, heads, width).permute(0, 2, 3, 1, 4).flatten(2, 3)
        keys, values = cache.transpose(2, 3)
        mask = self._mask[:, None, None].expand(-1, 1, heads, -1, -1).flatten(2, 3)
        found = F.scaled_dot_product_attention(asked, keys, values, attn_mask=mask)
        found = found.unflatten(2, (heads, self._columns)).permute(0, 3, 1, 2, 4).flatten(0, 1)
        return found.index_select(0, self._slots).flatten(1)


def _places(lengths: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Return for every token of samples of some lengths its sample, and its place in it."""
    samples = torch.arange(lengths.numel(), device=lengths.device)
    owners = torch.repeat_interleave(samples, lengths, output_size=total)
    starts = lengths.cumsum(0) - lengths
    return owners, torch.arange(total, device=lengths.device) - starts[owners]
