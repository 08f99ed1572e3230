"""AdamW with fp32 master weights for the parameters that train, and nothing for the frozen ones."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.optimizer import get_param_id_to_sharded_param_map, make_sharded_optimizer_tensor

from components.errors import StageError
from components.model.vlm import PARTIAL_GRADIENT
from components.training.config import Recipe

_BUCKET_ELEMENTS = 2**25
"""Most numbers of one message between data-parallel ranks, if it is not a single tensor: 128 MiB in fp32."""


class MasterWeightAdamW:
    """AdamW over fp32 master copies; a parameter that is fp32 itself is its own master.

    Gradients of all micro-batches are summed in fp32, each as soon as the backward pass has it. The caller divides by the
    number of answer tokens of the global batch through the loss, so that the sum is the gradient of the mean loss per token.

    With `shard`, every data-parallel rank keeps masters and moments of its own part of the parameters, updates that part
    and sends it to the others (ZeRO stage 1, Rajbhandari et al. 2020): 12 bytes per bf16 parameter are divided by the number
    of data-parallel ranks. A parameter belongs to one rank whole, so that checkpoints are the same with and without, and
    load at any number of ranks. The messages are as many bytes as those of the all-reduce.

    Args:
        model: Its parameters with `requires_grad` are trained. Matrices decay; biases, norms and other vectors don't.
        recipe: Betas, epsilon, weight decay and the clipping norm.
        shard: Spread the state over the data-parallel ranks.

    Raises:
        StageError: No parameter of the model trains.

    Attributes:
        parameters: The trained parameters.
        masters: Place in `parameters` to master, of those that this rank updates.
    """

    def __init__(self, model: torch.nn.Module, recipe: Recipe, *, shard: bool = False) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            raise StageError(
                "No parameter of the model has requires_grad: the recipe's train_* settings freeze everything."
            )
        decayed = [parameter for parameter in trained if parameter.ndim >= 2]
        self.parameters = decayed + [parameter for parameter in trained if parameter.ndim < 2]
        self._clip_grad = recipe.clip_grad
        self._ranks = parallel_state.get_data_parallel_world_size()
        self._shard = shard and self._ranks > 1
        everything = [list(range(len(self.parameters)))]
        self._parts = (
            assign_owners([parameter.numel() for parameter in self.parameters], self._ranks)
            if self._shard
            else everything
        )
        own = self._parts[parallel_state.get_data_parallel_rank() if self._shard else 0]
        self.masters = {index: _master(self.parameters[index]) for index in own}
        groups = [
            {"params": [self.masters[i] for i in own if i < len(decayed)], "weight_decay": recipe.weight_decay},
            {"params": [self.masters[i] for i in own if i >= len(decayed)], "weight_decay": 0.0},
        ]
        filled = [group for group in groups if group["params"]]
        # With more ranks than parameters, some ranks have nothing to update.
        self._adamw = (
            torch.optim.AdamW(
                filled,
                lr=recipe.learning_rate,
                betas=(recipe.adam_beta1, recipe.adam_beta2),
                eps=recipe.adam_eps,
                fused=True,
            )
            if filled
            else None
        )
        self._steps = 0
        device = self.parameters[0].device
        self._own = torch.tensor(own, dtype=torch.int64, device=device)
        is_split = [_is_split(parameter) for parameter in self.parameters]
        self._split = torch.tensor([i for i, split in enumerate(is_split) if split], dtype=torch.int64, device=device)
        self._whole = torch.tensor(
            [i for i, split in enumerate(is_split) if not split], dtype=torch.int64, device=device
        )
        self._partial = [i for i, parameter in enumerate(self.parameters) if hasattr(parameter, PARTIAL_GRADIENT)]
        self._sums: dict[int, torch.Tensor] = {}
        for index, parameter in enumerate(self.parameters):
            if parameter.dtype != torch.float32:
                parameter.register_post_accumulate_grad_hook(_SumUp(self._sums, index))

    def step(self, learning_rate: float) -> float:
        """Reduce the gradients over the data-parallel ranks, clip, update, and clear them.

        Returns:
            The global gradient norm before clipping.
        """
        gradients = self._take_gradients()
        self._complete(gradients)
        self._reduce(gradients)
        norm = self._global_norm(gradients)
        if self._clip_grad and norm > self._clip_grad and self.masters:
            torch._foreach_mul_([gradients[index] for index in self.masters], self._clip_grad / (norm + 1e-6))
        self._steps += 1
        if self._adamw is not None:
            for index, master in self.masters.items():
                master.grad = gradients[index]
            for group in self._adamw.param_groups:
                group["lr"] = learning_rate
            self._adamw.step()
            self._adamw.zero_grad(set_to_none=True)
        with torch.no_grad():
            for index, master in self.masters.items():
                if master is not self.parameters[index]:
                    self.parameters[index].copy_(master)
        if self._shard:
            self._share_parameters()
        return norm

    def _take_gradients(self) -> list[torch.Tensor]:
        """Return the fp32 sums of all parameters, and forget them."""
        gradients = []
        for index, parameter in enumerate(self.parameters):
            gradient = parameter.grad if parameter.dtype == torch.float32 else self._sums.pop(index, None)
            parameter.grad = None
            if gradient is None:  # a rank whose micro-batches did not touch it still takes part in the sum
                gradient = torch.zeros_like(parameter, dtype=torch.float32)
            gradients.append(gradient)
        return gradients

    def _complete(self, gradients: list[torch.Tensor]) -> None:
        """Sum what every tensor-parallel rank has of the gradients of norms within the heads, in place."""
        if not self._partial or parallel_state.get_tensor_model_parallel_world_size() == 1:
            return
        with _Flat([gradients[index] for index in self._partial]) as flat:
            torch.distributed.all_reduce(flat, group=parallel_state.get_tensor_model_parallel_group())

    def _reduce(self, gradients: list[torch.Tensor]) -> None:
        """Sum over the data-parallel ranks, in place; with shards, only at the owner of each, and the others drop theirs."""
        if self._ranks == 1:
            return
        group = parallel_state.get_data_parallel_group()
        for owner, part in enumerate(self._parts):
            for bucket in _buckets([gradients[index] for index in part]):
                with _Flat(bucket) as flat:
                    if self._shard:
                        root = torch.distributed.get_global_rank(group, owner)
                        torch.distributed.reduce(flat, dst=root, group=group)
                    else:
                        torch.distributed.all_reduce(flat, group=group)
            for index in part:
                if index not in self.masters:
                    gradients[index] = gradients[index].new_empty(0)

    def _share_parameters(self) -> None:
        """Send every parameter from its owner to the other data-parallel ranks."""
        group = parallel_state.get_data_parallel_group()
        for owner, part in enumerate(self._parts):
            root = torch.distributed.get_global_rank(group, owner)
            for bucket in _buckets([self.parameters[index].detach() for index in part]):
                with _Flat(bucket) as flat:
                    torch.distributed.broadcast(flat, src=root, group=group)

    def _global_norm(self, gradients: list[torch.Tensor]) -> float:
        """Return the 2-norm over the whole model: shards are summed over tensor-parallel ranks, replicas count once.

        The squares of all parameters come together before they are summed, so that the norm, and with it the clipping, is
        bit for bit the same with and without shards.
        """
        squares = torch.zeros(len(self.parameters), device=self._own.device)
        if self.masters:
            norms = torch._foreach_norm([gradients[index] for index in self.masters])
            squares[self._own] = torch.stack(norms).square()
        if self._shard:
            torch.distributed.all_reduce(squares, group=parallel_state.get_data_parallel_group())
        split = squares[self._split].sum()
        if parallel_state.get_tensor_model_parallel_world_size() > 1:
            torch.distributed.all_reduce(split, group=parallel_state.get_tensor_model_parallel_group())
        return float((split + squares[self._whole].sum()).sqrt())

    def sharded_state_dict(self, model_sharded_state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the optimizer's state as a megatron-core sharded state dict.

        Args:
            model_sharded_state_dict: The model's own, built with the original parameters; it tells how each state
                tensor is cut, so that the state loads at another tensor-parallel size.
        """
        shards = get_param_id_to_sharded_param_map(model_sharded_state_dict, self.parameters)
        missing = len(self.parameters) - len(shards)
        if missing:
            raise StageError(
                f"{missing} trained parameters are not in the model's sharded state: they would not be saved."
            )
        if self._shard:
            # megatron-core writes a tensor from the first data-parallel rank that has it: here there is one alone.
            shards = {
                index: replace(shards[index], replica_id=(*shards[index].replica_id[:-1], 0)) for index in self.masters
            }
        tensors = {
            index: {
                name: make_sharded_optimizer_tensor(shards[index], tensor, prefix=f"optimizer.{name}")
                for name, tensor in self._tensors(index).items()
            }
            for index in self.masters
        }
        return {"tensors": tensors, "step": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `sharded_state_dict` described and the checkpoint library loaded.

        Learning rate, betas and weight decay come from the recipe, not from the checkpoint.
        """
        self._steps = int(state["step"])
        for index in self.masters:
            for name, tensor in self._tensors(index).items():
                tensor.copy_(state["tensors"][index][name])
            self._moments(index)["step"].fill_(self._steps)

    def _tensors(self, index: int) -> dict[str, torch.Tensor]:
        """Return the tensors that make up the state of one parameter."""
        moments, master = self._moments(index), self.masters[index]
        tensors = {"exp_avg": moments["exp_avg"], "exp_avg_sq": moments["exp_avg_sq"]}
        if master is not self.parameters[index]:
            tensors["master"] = master.data
        return tensors

    def _moments(self, index: int) -> dict[str, torch.Tensor]:
        """Return what torch's AdamW holds for one parameter, zeros before the first step."""
        assert self._adamw is not None
        master = self.masters[index]
        state: dict[str, torch.Tensor] = self._adamw.state[master]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
            state["exp_avg"] = torch.zeros_like(master)
            state["exp_avg_sq"] = torch.zeros_like(master)
        return state


def assign_owners(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """Spread parameters over ranks: the largest first, each to the rank that has least.

    Args:
        sizes: Elements of every parameter.
        ranks: Number of ranks.

    Returns:
        The places of every rank's parameters, ascending.
    """
    parts: list[list[int]] = [[] for _ in range(ranks)]
    filled = [(0, rank) for rank in range(ranks)]
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        size, rank = filled[0]
        parts[rank].append(index)
        heapq.heapreplace(filled, (size + sizes[index], rank))
    return [sorted(part) for part in parts]


class _SumUp:
    """Adds a bf16 gradient to its fp32 sum and frees it, while the backward pass goes on.

    All gradients of a backward pass at once would be 2 bytes more per parameter.
    """

    def __init__(self, sums: dict[int, torch.Tensor], index: int) -> None:
        self._sums, self._index = sums, index

    def __call__(self, parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if self._index in self._sums:
            self._sums[self._index].add_(gradient)
        else:
            self._sums[self._index] = gradient.float()
        parameter.grad = None


class _Flat:
    """Tensors as one flat message; on leaving, what came back is in the tensors."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self._tensors = tensors
        self._in_place = len(tensors) == 1 and tensors[0].is_contiguous()

    def __enter__(self) -> torch.Tensor:
        if self._in_place:
            self._message = self._tensors[0].view(-1)
        else:
            self._message = torch.cat([tensor.reshape(-1) for tensor in self._tensors])
        return self._message

    def __exit__(self, *_: object) -> None:
        if self._in_place:
            return
        parts = self._message.split([tensor.numel() for tensor in self._tensors])
        for tensor, part in zip(self._tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Group tensors of one type into messages of a limited size, in their order."""
    bucket: list[torch.Tensor] = []
    filled = 0
    for tensor in tensors:
        if bucket and (filled + tensor.numel() > _BUCKET_ELEMENTS or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.numel()
    if bucket:
        yield bucket


def _master(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    if parameter.dtype == torch.float32:
        return parameter
    return torch.nn.Parameter(parameter.detach().float().clone())


def _is_split(parameter: torch.nn.Parameter) -> bool:
    return bool(getattr(parameter, "tensor_model_parallel", False))
