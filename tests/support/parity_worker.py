"""What each process of `tests.support.parity.logits_at` and `training_at` does. The argument is the folder with `jobs.json`.

`compute_logits` writes `logits.pt`. Beside the jobs it has "wrong cut": the first model with the gated MLP's first weight cut as
one matrix, as if gate and up had been put together before cutting instead of each on its own.
"""

import json
import os
from pathlib import Path

import torch
from megatron.core import parallel_state
from torch import Tensor

from components.model.checkpoint.sharded import load_model, save_model
from components.model.config import read_model_config
from components.model.decoding import Decoder, generate
from components.model.distributed import destroy, initialize
from components.model.vlm import VisionLanguageModel, build_model, gather_logits
from components.training.config import Recipe
from components.training.optimizer import MasterWeightAdamW
from tests.support.model_samples import FIRST_TEXT_TOKEN, VOCABULARY, packed, pixel_values, prompts, samples
from tests.support.small_training import RECIPE

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DECODED_STEPS = 4
ANSWERS = 50
ANSWER_TOKENS = 8


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
    image = model.architecture.image
    batch = packed(samples(image=image))
    with torch.no_grad():
        return gather_logits(model(batch, pixel_values(batch, image)))[:, :VOCABULARY].float()


def _cut_as_one_matrix(model: VisionLanguageModel) -> None:
    group = parallel_state.get_tensor_model_parallel_group()
    for layer in model.language_model.decoder.layers:
        weight = layer.mlp.linear_fc1.weight
        parts = [torch.empty_like(weight.data) for _ in range(group.size())]
        torch.distributed.all_gather(parts, weight.data.contiguous(), group=group)
        halves = [part.chunk(2) for part in parts]
        whole = torch.cat([gate for gate, _ in halves] + [up for _, up in halves])
        weight.data.copy_(whole.chunk(group.size())[group.rank()])


def measure_training(results: Path) -> None:
    """Answer prompts, decode, and compute losses and gradients of every model of `jobs.json` in float32.

    The first rank writes `measured.pt` (name to answers, logits of every decoding step, and losses); gradients are checkpoints,
    one folder a model, under the parameters' names.
    """
    parallel = initialize(int(os.environ["WORLD_SIZE"]), device="cpu")
    jobs: dict[str, str] = json.loads((results / "jobs.json").read_text())
    measured = {}
    for number, (name, folder) in enumerate(jobs.items()):
        model = _loaded(Path(folder), torch.float32)
        image = model.architecture.image
        answers = generate(model, prompts(ANSWERS, image), end_tokens=[-1], max_new_tokens=ANSWER_TOKENS)
        steps = _decoded(model)
        batch = packed(samples(image=image))
        losses = model.train()(batch, pixel_values(batch, image), compute_loss=True)
        losses.sum().backward()
        measured[name] = {"answers": torch.tensor(answers), "steps": steps, "losses": losses.detach()}
        optimizer = MasterWeightAdamW(model, Recipe(**RECIPE))
        gradients = optimizer._take_gradients()
        optimizer._complete(gradients)
        for parameter, gradient in zip(optimizer.parameters, gradients, strict=True):
            parameter.data.copy_(gradient)
        save_model(model, results / f"gradients-{number}")
    if parallel.rank == 0:
        torch.save(measured, results / "measured.pt")
    destroy()


def _decoded(model: VisionLanguageModel) -> Tensor:
    """Return the logits of every decoding step, [steps, samples, vocabulary]."""
    image = model.architecture.image
    batch = packed(samples(image=image))
    decoder = Decoder(model, batch, pixel_values(batch, image), DECODED_STEPS)
    steps = [gather_logits(decoder.logits)]
    for step in range(1, DECODED_STEPS):
        decoder.step(decoded_tokens(step))
        steps.append(gather_logits(decoder.logits))
    return torch.stack(steps)[..., :VOCABULARY]


def decoded_tokens(step: int) -> Tensor:
    """Return the tokens that every sample is continued with at a step."""
    return FIRST_TEXT_TOKEN + 10 * step + torch.arange(len(samples()))
