"""How the next token of an answer is chosen: the most likely one, or a draw from the likely ones."""

import random
from collections.abc import Sequence

import torch
from megatron.core import parallel_state
from torch import Tensor

from components.model.sampling_settings import Sampling
from components.model.vlm import gather_logits


class Chooser:
    """Chooses the next token of every answer, equally on all tensor-parallel ranks.

    An answer's draws depend on the seed and its key alone: not on the batch, its order, or other processes.

    Args:
        sampling: The settings.
        keys: What tells the answers apart (sample ids).
    """

    def __init__(self, sampling: Sampling, keys: Sequence[str]) -> None:
        self._sampling = sampling
        self._draws = [random.Random(f"{sampling.seed} {key}") for key in keys]

    def choose(self, logits: Tensor, answers: Sequence[int]) -> Tensor:
        """Choose a token for each of some answers.

        Args:
            logits: This rank's part, [S, padded vocabulary / tensor-parallel size].
            answers: Places of the S answers among the keys.

        Returns:
            int64 [S].
        """
        if self._sampling.greedy:
            return most_likely(logits)
        uniform = torch.tensor([self._draws[answer].random() for answer in answers], dtype=torch.float64)
        tokens = draw(probabilities(gather_logits(logits), self._sampling), uniform.to(logits.device))
        group = parallel_state.get_tensor_model_parallel_group()
        if group.size() > 1:  # sums over a vocabulary may be rounded differently on another GPU
            torch.distributed.broadcast(tokens, parallel_state.get_tensor_model_parallel_src_rank(), group=group)
        return tokens


def forbid(logits: Tensor, token: int) -> Tensor:
    """Make a token impossible, in place; return the logits.

    Args:
        logits: This rank's part, [S, padded vocabulary / tensor-parallel size].
        token: Its id; one beyond the vocabulary is impossible anyway.
    """
    place = token - logits.shape[-1] * parallel_state.get_tensor_model_parallel_rank()
    if 0 <= place < logits.shape[-1]:
        logits[:, place] = -torch.inf
    return logits


def most_likely(logits: Tensor) -> Tensor:
    """Return the token with the largest logit over all tensor-parallel ranks, int64 [S]; of equals the first.

    Args:
        logits: This rank's part, [S, padded vocabulary / tensor-parallel size].
    """
    values, tokens = logits.max(dim=-1)
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1:
        return tokens
    # Two numbers of every rank, not its whole part of the vocabulary.
    offset = logits.shape[-1] * parallel_state.get_tensor_model_parallel_rank()
    own = torch.stack([values.double(), (tokens + offset).double()])
    parts = [torch.empty_like(own) for _ in range(group.size())]
    torch.distributed.all_gather(parts, own, group=group)
    best, candidates = torch.stack(parts).unbind(dim=1)
    return candidates.masked_fill(best < best.amax(dim=0), torch.inf).amin(dim=0).long()


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return what tokens are drawn with: temperature, then the k most likely, then the nucleus.

    Args:
        logits: [S, vocabulary].
        sampling: The settings; the temperature is above 0.

    Returns:
        float64 [S, vocabulary]; rows sum to 1, and are 0 for the tokens that are left out.
    """
    # The largest logit becomes 0 first, so that no temperature overflows.
    scaled = (logits.double() - logits.amax(dim=-1, keepdim=True).double()) / sampling.temperature
    if 0 < sampling.top_k < scaled.shape[-1]:
        smallest = scaled.topk(sampling.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < smallest, -torch.inf)
    found = scaled.softmax(dim=-1)
    if sampling.top_p < 1:
        ordered, tokens = found.sort(dim=-1, descending=True, stable=True)
        more_likely = ordered.cumsum(dim=-1) - ordered
        found = found.scatter(-1, tokens, ordered.masked_fill(more_likely >= sampling.top_p, 0.0))
        found = found / found.sum(dim=-1, keepdim=True)
    return found


def draw(found: Tensor, uniform: Tensor) -> Tensor:
    """Draw a token from every distribution by inverting its cumulative sum.

    Args:
        found: float64 [S, vocabulary], not negative.
        uniform: float64 [S], from 0 to below 1.

    Returns:
        int64 [S]; never a token of probability 0.
    """
    cumulative = found.cumsum(dim=-1)
    total = cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, uniform[:, None] * total, right=True)
    return torch.minimum(drawn, torch.searchsorted(cumulative, total.contiguous()))[:, 0]
