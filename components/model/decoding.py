"""Generation with a cache of keys and values: prompts of different lengths are read at once, then grow a token at a time.

Training runs megatron-core's layers with all that training needs. For one token per sample their bookkeeping takes
longer than the arithmetic, so here the layers' own modules (norms and linear layers, plain or Transformer Engine's) are
called one after the other. What comes out equals the training path's: tests compare the two.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor

from components.data.packing import EncodedSample, pack
from components.errors import StageError
from components.model.attention import SdpaCoreAttention
from components.model.prompt_reading import ParallelRests, Reading
from components.model.sampling import Chooser, forbid
from components.model.sampling_settings import GREEDY, Sampling
from components.model.seen_pictures import SeenPictures, rows_of_prompts, see_pictures
from components.model.shared_prompts import Beginnings, part_prompts
from components.model.vlm import TokenBatch, VisionLanguageModel

_ALIGNMENT = 8  # places; attention kernels on GPUs want masks of such a width


@torch.no_grad()
def generate(
    model: VisionLanguageModel,
    prompts: Sequence[EncodedSample],
    *,
    end_tokens: Collection[int],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    seen: SeenPictures | None = None,
) -> list[list[int]]:
    """Continue prompts; all tensor-parallel ranks call it and get the same.

    Prompts of different lengths are read as one packed sequence. A picture that several prompts show is encoded once, and
    what such prompts begin with alike is read once. A finished answer leaves the batch, so that the others do not pay for it.

    Args:
        model: The model, in evaluation mode.
        prompts: Encoded prompts; the key of each decides its draws.
        end_tokens: The tokens that end an answer, whichever comes first.
        max_new_tokens: Most tokens of an answer.
        sampling: How a token is chosen.
        seen: What the vision tower sees of the prompts' pictures, which then need not be in the prompts; None to look now.

    Returns:
        The tokens of every answer, without the end token.

    Raises:
        StageError: A prompt and its answer are longer than the model's positions.
    """
    if not prompts:
        return []
    device = model.language_model.embedding.word_embeddings.weight.device
    seen = see_pictures(model, prompts) if seen is None else seen
    parted = part_prompts(prompts, rows_of_prompts(model, prompts, seen.rows), model.architecture.image_token_id)
    samples, rows = (prompts, seen.rows) if parted is None else (parted.samples, parted.rows)
    batch = pack(samples, sequence_length=sum(sample.length for sample in samples))[0].to(device)
    decoder = Decoder(
        model,
        batch,
        None,
        max_new_tokens,
        features=seen.features,
        pictures=torch.tensor(rows, device=device, dtype=torch.int64),
        beginnings=None if parted is None else parted.beginnings,
    )
    chooser = Chooser(sampling, [prompt.key for prompt in prompts])
    answers: list[list[int]] = [[] for _ in prompts]
    open_answers = list(range(len(prompts)))
    for step in range(max_new_tokens):
        # An image token is no word: in an answer it would ask for a picture that is not there.
        tokens = chooser.choose(forbid(decoder.logits, model.architecture.image_token_id), open_answers)
        going_on = []
        for place, token in enumerate(tokens.tolist()):
            if token not in end_tokens:
                answers[open_answers[place]].append(token)
                going_on.append(place)
        if not going_on or step + 1 == max_new_tokens:
            break
        if len(going_on) < len(open_answers):
            order = decoder.keep(going_on)
            tokens = tokens[torch.tensor(order, device=device)]
            open_answers = [open_answers[place] for place in order]
        decoder.step(tokens)
    return answers


class Decoder:
    """Samples that are being continued.

    Prompts end at the same place of the cache, whatever their length: so the new tokens of all samples are stored side by
    side, and where all prompts are equally long (captions) attention needs no mask.

    Args:
        model: The model, in evaluation mode; all its tensor-parallel ranks build the decoder.
        batch: The prompts, packed.
        pixel_values: Their distinct pictures, as in the model's `forward`.
        max_new_tokens: Most tokens that `step` will be given per sample, plus one.
        pictures: int64, for every picture of the batch its row of `pixel_values`; None where they are the same.
        features: What the tower sees of the pictures, in place of `pixel_values`.
        beginnings: Which samples of the batch are what several prompts begin with; None where each is a prompt.

    Attributes:
        logits: Of every open sample's next token, [S, padded vocabulary / tensor-parallel size].

    Raises:
        StageError: Image tokens and pictures don't match, or a sample would be longer than the model's positions.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: VisionLanguageModel,
        batch: TokenBatch,
        pixel_values: Tensor | None,
        max_new_tokens: int,
        *,
        pictures: Tensor | None = None,
        features: Tensor | None = None,
        beginnings: Beginnings | None = None,
    ) -> None:
        language = model.language_model
        architecture = language.architecture
        reading = Reading(batch, beginnings)
        longest = reading.longest + max_new_tokens - 1
        if longest > architecture.max_position_embeddings:
            raise StageError(
                f"A prompt of {reading.longest} tokens and {max_new_tokens} new ones are more than the language model "
                f"was made for ({architecture.max_position_embeddings}, max_position_embeddings). Shorten the prompt or "
                "max_new_tokens."
            )
        self._language = language
        self._layers = list(language.decoder.layers)
        self._width = architecture.kv_channels
        if features is None and pixel_values is not None:
            features = model.vision_features(pixel_values)
        embedded = model.embed_inputs(batch, features, pictures).squeeze(1)
        lengths = reading.lengths
        samples, device = lengths.numel(), lengths.device
        self._capacity, self._filled = longest, reading.longest
        width = -(-longest // _ALIGNMENT) * _ALIGNMENT
        groups = architecture.num_query_groups // language.config.tensor_model_parallel_size
        shape = (len(self._layers), 2, samples, width, groups, self._width)
        # Zeros, not what lay there: a place that is masked still takes part, with weight 0.
        self._cache = torch.zeros(shape, dtype=embedded.dtype, device=device)
        self._first = reading.longest - lengths
        self._mask: Tensor | None = None
        if not reading.equally_long:
            hidden = torch.arange(width, device=device) < self._first[:, None]
            self._mask = torch.zeros_like(hidden, dtype=embedded.dtype).masked_fill(hidden, -torch.inf)[:, None, None]
        angles = language.rotary_angles(longest)[:, 0, 0]
        self._cosines = angles.cos().to(embedded.dtype)
        # Multiplied with the halves swapped: the first half of the result subtracts.
        signs = torch.ones_like(angles).index_fill(-1, torch.arange(self._width // 2, device=device), -1.0)
        self._sines = (angles.sin() * signs).to(embedded.dtype)
        self.logits = self._read_prompts(embedded, reading)

    @torch.no_grad()
    def step(self, tokens: Tensor) -> None:
        """Append one text token to every open sample and compute the logits of the next.

        Args:
            tokens: int64 [S].

        Raises:
            StageError: The cache is full.
        """
        if self._filled >= self._capacity:
            raise StageError(
                f"The cache holds {self._capacity} tokens per sample and is full: ask for more new tokens."
            )
        positions = self._filled - self._first
        cosines, sines = self._cosines[positions], self._sines[positions]
        hidden = self._language.embed(tokens).squeeze(1)
        samples, place = tokens.numel(), self._filled
        self._filled += 1
        for number, layer in enumerate(self._layers):
            query, key, value = self._project(layer, hidden, cosines, sines)
            cache = self._cache[number]
            cache[0, :samples, place] = key
            cache[1, :samples, place] = value
            hidden = _finish(layer, hidden, self._attend(query, cache))
        self.logits = self._language.logits(self._language.decoder.final_layernorm(hidden))

    def keep(self, places: Sequence[int]) -> list[int]:
        """Keep only some of the open samples; those at the end move into the gaps, so that little is copied.

        Args:
            places: Places of the samples, ascending.

        Returns:
            The former place of every sample that is open now.
        """
        count = len(places)
        gaps = sorted(set(range(count)) - set(places))
        moved = [place for place in places if place >= count]
        order = list(range(count))
        for gap, place in zip(gaps, moved, strict=True):
            self._cache[:, :, gap] = self._cache[:, :, place]
            order[gap] = place
        kept = torch.tensor(order, device=self._first.device)
        self._first = self._first[kept]
        if self._mask is not None:
            self._mask = self._mask[kept]
        return order

    def _read_prompts(self, hidden: Tensor, reading: Reading) -> Tensor:
        attention = SdpaCoreAttention(self._language.config, 1, AttnMaskType.causal, "self").eval()
        cosines, sines = self._cosines[reading.positions], self._sines[reading.positions]
        slots = reading.slots(self._first, width=self._cache.shape[3])
        whole = reading.packed_tokens
        rests = None if reading.rests is None else ParallelRests(reading.rests, self._first)
        for number, layer in enumerate(self._layers):
            query, key, value = self._project(layer, hidden, cosines, sines)
            cache = self._cache[number]
            cache[0].flatten(0, 1).index_copy_(0, slots, reading.of_prompts(key))
            cache[1].flatten(0, 1).index_copy_(0, slots, reading.of_prompts(value))
            if layer is self._layers[-1]:  # nothing but a prompt's last token is needed of the last layer
                hidden, mixed = hidden[reading.ends], self._attend(query[reading.ends], cache)
            else:
                packed = query[:whole].flatten(1, 2), key[:whole], value[:whole]
                mixed = attention(*packed, packed_seq_params=reading.layout)
                if rests is not None:
                    mixed = torch.cat([mixed, rests.attend(query[whole:], cache[:, :, : self._filled])])
            hidden = _finish(layer, hidden, mixed)
        return self._language.logits(self._language.decoder.final_layernorm(hidden))

    def _project(self, layer: Any, hidden: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [rows, groups, heads of a group, width], keys and values [rows, groups, width] of new tokens."""
        mixed = _linear(layer.self_attention.linear_qkv, layer.input_layernorm(hidden))
        # Per group: its query heads, its key, its value.
        mixed = mixed.view(hidden.shape[0], self._cache.shape[4], -1, self._width)
        turning = mixed[:, :, :-1]
        if layer.self_attention.q_layernorm is not None:
            queries, keys = turning[:, :, :-1], turning[:, :, -1:]
            turning = torch.cat(
                [layer.self_attention.q_layernorm(queries), layer.self_attention.k_layernorm(keys)], dim=2
            )
        turned = torch.addcmul(
            turning * cosines[:, None, None], turning.roll(self._width // 2, dims=-1), sines[:, None, None]
        )
        return turned[:, :, :-1], turned[:, :, -1], mixed[:, :, -1]

    def _attend(self, query: Tensor, cache: Tensor) -> Tensor:
        """Attend with one token per sample to all that is cached; return [S, heads x width].

        The heads of a group stand where other attention has a sample's tokens: they see the same keys.
        """
        keys, values = cache[:, : query.shape[0], : self._filled].transpose(2, 3)
        mask = None if self._mask is None else self._mask[..., : self._filled]
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask).flatten(1)


def _finish(layer: Any, hidden: Tensor, mixed: Tensor) -> Tensor:
    """Return a layer's output, given its input and what its attention heads found."""
    hidden = hidden + _linear(layer.self_attention.linear_proj, mixed)
    gate, up = _linear(layer.mlp.linear_fc1, layer.pre_mlp_layernorm(hidden)).chunk(2, dim=-1)
    return hidden + _linear(layer.mlp.linear_fc2, F.silu(gate) * up)


def _linear(module: Any, inputs: Tensor) -> Tensor:
    """Apply a layer's linear module; megatron-core's plain ones without what their backward needs."""
    if not isinstance(module, ColumnParallelLinear | RowParallelLinear):
        output: Tensor = module(inputs)[0]
        return output
    if isinstance(module, RowParallelLinear) and module.bias is not None:
        raise AssertionError("no family has a bias here: it would have to be added once, after the sum")
    output = F.linear(inputs, module.weight, module.bias)
    group = parallel_state.get_tensor_model_parallel_group()
    if isinstance(module, RowParallelLinear) and group.size() > 1:
        torch.distributed.all_reduce(output, group=group)
    return output
