"""Fills Transformer Engine's layers with weights that plain layers wrote, on the CPU, and prints what differs as JSON.

Runs as a module in the GPU image, where Transformer Engine is. Nothing is computed: its kernels need a GPU.
"""

import json
import tempfile
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from components.data.image_settings import ImageSettings
from components.model import vlm
from components.model.checkpoint.sharded import load_model, save_model, sharded_parameters
from components.model.distributed import single_process
from tests.support.model_config import CONFIG, changed

SHAPE = changed(
    CONFIG,
    language=changed(CONFIG.language, num_layers=2, hidden_size=64, ffn_hidden_size=96),
    vision=changed(CONFIG.vision, image_size=28, patch_size=14),
    image=ImageSettings(size=28, patch=14),
    image_token_id=329,
)


def main() -> None:
    """Print the number of parameters, of Transformer Engine's modules, and the names that differ."""
    cpu = torch.device("cpu")
    with single_process(), tempfile.TemporaryDirectory() as folder:
        plain = vlm.build_model(SHAPE, device=cpu, init_seed=1)
        save_model(plain, Path(folder) / "weights")
        # Transformer Engine refuses to build without a GPU, though its parameters may lie on the CPU.
        with (
            mock.patch.object(vlm, "choose_backend", return_value="transformer_engine"),
            mock.patch("torch.cuda.is_available", return_value=True),
        ):
            engine = vlm.build_model(SHAPE, device=cpu)
        load_model(engine, Path(folder) / "weights")
        stored, filled = parameters(plain), parameters(engine)
    unequal = sorted(name for name in stored.keys() | filled.keys() if not equal(stored.get(name), filled.get(name)))
    modules = [module for module in engine.modules() if type(module).__module__.startswith("transformer_engine")]
    print(json.dumps({"parameters": len(stored), "engine_modules": len(modules), "unequal": unequal}))


def parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters under the names that they are stored by."""
    return {value.key: value.data for value in sharded_parameters(model).values()}


def equal(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    """Tell whether both are there and the same."""
    return left is not None and right is not None and torch.equal(left, right)


if __name__ == "__main__":
    main()
