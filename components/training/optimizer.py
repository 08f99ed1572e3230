"""AdamW with fp32 master weights for the parameters that train, and nothing for the frozen ones."""

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.optimizer import get_param_id_to_sharded_param_map, make_sharded_optimizer_tensor

from components.errors import StageError
from components.training.config import Recipe


class MasterWeightAdamW:
    """AdamW over fp32 master copies; a parameter that is fp32 itself is its own master.

    Gradients of all micro-batches are summed in fp32. The caller divides by the number of answer tokens of the global
    batch through the loss, so that the sum is the gradient of the mean loss per token.

    Args:
        model: Its parameters with `requires_grad` are trained. Matrices decay; biases, norms and other vectors don't.
        recipe: Betas, epsilon, weight decay and the clipping norm.

    Raises:
        StageError: No parameter of the model trains.
    """

    def __init__(self, model: torch.nn.Module, recipe: Recipe) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            raise StageError(
                "No parameter of the model has requires_grad: the recipe's train_* settings freeze everything."
            )
        decayed = [parameter for parameter in trained if parameter.ndim >= 2]
        undecayed = [parameter for parameter in trained if parameter.ndim < 2]
        self._clip_grad = recipe.clip_grad
        self.parameters = decayed + undecayed
        self.masters = [_master(parameter) for parameter in self.parameters]
        groups = [
            {"params": self.masters[: len(decayed)], "weight_decay": recipe.weight_decay},
            {"params": self.masters[len(decayed) :], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=recipe.learning_rate,
            betas=(recipe.adam_beta1, recipe.adam_beta2),
            eps=recipe.adam_eps,
            fused=True,
        )

    def accumulate(self) -> None:
        """Add the gradients of the last backward pass to the fp32 sums; call it after every micro-batch."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is parameter or parameter.grad is None:
                continue
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad.add_(parameter.grad)
            parameter.grad = None

    def step(self, learning_rate: float) -> float:
        """Reduce the gradients over the data-parallel ranks, clip, update, and clear them.

        Returns:
            The global gradient norm before clipping.
        """
        for master in self.masters:
            if master.grad is None:  # a rank whose micro-batches did not touch it still takes part in the sum
                master.grad = torch.zeros_like(master)
        gradients = [master.grad for master in self.masters if master.grad is not None]
        _sum_over_data_parallel(gradients)
        norm = self._global_norm()
        if self._clip_grad and norm > self._clip_grad:
            torch._foreach_mul_(gradients, self._clip_grad / (norm + 1e-6))
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        with torch.no_grad():
            for parameter, master in zip(self.parameters, self.masters, strict=True):
                if master is not parameter:
                    parameter.copy_(master)
        return norm

    def _global_norm(self) -> float:
        """Return the 2-norm over the whole model: shards are summed over tensor-parallel ranks, replicas count once."""
        sharded = [m.grad for p, m in zip(self.parameters, self.masters, strict=True) if _is_sharded(p)]
        replicated = [m.grad for p, m in zip(self.parameters, self.masters, strict=True) if not _is_sharded(p)]
        squares = _sum_of_squares(sharded, self.masters[0].device)
        if parallel_state.get_tensor_model_parallel_world_size() > 1:
            torch.distributed.all_reduce(squares, group=parallel_state.get_tensor_model_parallel_group())
        return float((squares + _sum_of_squares(replicated, squares.device)).sqrt())

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
        tensors = {
            index: {
                name: make_sharded_optimizer_tensor(shards[index], tensor, prefix=f"optimizer.{name}")
                for name, tensor in self._tensors(index).items()
            }
            for index in range(len(self.parameters))
        }
        return {"tensors": tensors, "step": int(self._adamw.state[self.masters[0]]["step"])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `sharded_state_dict` described and the checkpoint library loaded.

        Learning rate, betas and weight decay come from the recipe, not from the checkpoint.
        """
        for index, master in enumerate(self.masters):
            for name, tensor in self._tensors(index).items():
                tensor.copy_(state["tensors"][index][name])
            self._adamw.state[master]["step"].fill_(state["step"])

    def _tensors(self, index: int) -> dict[str, torch.Tensor]:
        """Return the tensors that make up the state of one parameter, zero moments before the first step."""
        master = self.masters[index]
        state = self._adamw.state[master]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
            state["exp_avg"] = torch.zeros_like(master)
            state["exp_avg_sq"] = torch.zeros_like(master)
        tensors = {"exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
        if master is not self.parameters[index]:
            tensors["master"] = master.data
        return tensors


def _master(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    if parameter.dtype == torch.float32:
        return parameter
    return torch.nn.Parameter(parameter.detach().float().clone())


def _is_sharded(parameter: torch.nn.Parameter) -> bool:
    return bool(getattr(parameter, "tensor_model_parallel", False))


def _sum_of_squares(tensors: list[torch.Tensor | None], device: torch.device) -> torch.Tensor:
    present = [tensor for tensor in tensors if tensor is not None]
    if not present:
        return torch.zeros((), device=device)
    return torch.stack(torch._foreach_norm(present)).square().sum()


def _sum_over_data_parallel(gradients: list[torch.Tensor]) -> None:
    if parallel_state.get_data_parallel_world_size() == 1:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    torch.distributed.all_reduce(flat, group=parallel_state.get_data_parallel_group())
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
