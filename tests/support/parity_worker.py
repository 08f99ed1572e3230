"""What each process of `tests.support.parity.logits_at` does. The argument is the folder with `jobs.json`.

The first rank writes `logits.pt`. Beside the jobs it has "wrong cut": the first model with the gated MLP's first weight cut as
one matrix, as if gate and up had been put together before cutting instead of each on its own.
"""

import json
import os
from pathlib import Path

import torch
from megatron.core import parallel_state
from torch import Tensor

from components.model.checkpoint.sharded import load_model
from components.model.config import read_model_config
from components.model.distributed import destroy, initialize
from components.model.vlm import VisionLanguageModel, build_model, gather_logits
from tests.support.model_samples import VOCABULARY, packed, pixel_values, samples

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def compute_logits(results: Path) -> None:
    """Load every model and compute its logits."""
    parallel = initialize(int(os.environ["WORLD_SIZE"]), device="cpu")
    jobs = json.loads((results / "jobs.json").read_text())
    logits = {name: _logits(_loaded(Path(folder), DTYPES[dtype])) for name, (folder, dtype) in jobs.items()}
    folder, dtype = next(iter(jobs.values()))
    wrong = _loaded(Path(folder), DTYPES[dtype])
    _cut_as_one_matrix(wrong)
    logits["wrong cut"] = _logits(wrong)
    if parallel.rank == 0:
        torch.save(logits, results / "logits.pt")
    destroy()


def _loaded(folder: Path, dtype: torch.dtype) -> VisionLanguageModel:
    model = build_model(read_model_config(folder), dtype=dtype)
    load_model(model, folder / "checkpoint")
    return model.eval()


def _logits(model: VisionLanguageModel) -> Tensor:
    batch = packed(samples())
    with torch.no_grad():
        return gather_logits(model(batch, pixel_values(batch)))[:, :VOCABULARY].float()


def _cut_as_one_matrix(model: VisionLanguageModel) -> None:
    group = parallel_state.get_tensor_model_parallel_group()
    for layer in model.language_model.decoder.layers:
        weight = layer.mlp.linear_fc1.weight
        parts = [torch.empty_like(weight.data) for _ in range(group.size())]
        torch.distributed.all_gather(parts, weight.data.contiguous(), group=group)
        halves = [part.chunk(2) for part in parts]
        whole = torch.cat([gate for gate, _ in halves] + [up for _, up in halves])
        weight.data.copy_(whole.chunk(group.size())[group.rank()])
