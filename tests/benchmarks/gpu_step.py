"""What a step costs on a GPU, full width and eight layers: a frozen tower for one or many micro-batches, repeatable gradients.

    python -m tests.benchmarks.gpu_step [--layers local transformer_engine]

Forward and backward pass of batches of eight samples, drawn as in `against_transformers`, with and without
`make_repeatable`; told is how many gradients differ between three passes over the same batch. Then 16 micro-batches of
captions with the tower frozen, its features computed for one micro-batch and for 64 pictures at once.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from components.data.image import normalise
from components.data.packing import PackedBatch
from components.model.distributed import destroy, initialize, make_repeatable
from components.model.vlm import VisionLanguageModel, build_model
from components.training.frozen_tower import PICTURES_AT_ONCE, features_of
from tests.benchmarks.against_transformers import full_config, packed, samples

_BATCH = 8
_MICRO_BATCHES = 16


def main() -> None:
    """Measure every kind of layers and print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", default=["local", "transformer_engine"])
    device = initialize(1).device
    for layers in parser.parse_args().layers:
        _measure(layers, device)
    destroy()


def _measure(layers: str, device: torch.device) -> None:
    config = full_config(8)
    model = build_model(config, dtype=torch.bfloat16, device=device, layers=layers, init_seed=1)  # type: ignore[arg-type]
    model.train().freeze(["vision"])

    def see(pixels: Tensor, valid: Tensor) -> Tensor:
        return model.vision_features(normalise(pixels, valid, config.image).to(torch.bfloat16))

    conversations = [packed(samples(config, "SFT", _BATCH, seed)).to(device) for seed in range(3)]
    captions = [packed(samples(config, "pretraining", _BATCH, seed)).to(device) for seed in range(_MICRO_BATCHES)]

    def learn(batches: list[PackedBatch], pictures_at_once: int = PICTURES_AT_ONCE) -> None:
        for batch, features in zip(batches, features_of(batches, see, pictures_at_once), strict=True):
            model(batch, features=features, compute_loss=True).sum().backward()

    for repeatable in (False, True):
        if repeatable:
            make_repeatable(device)
        differing = {name for batch in conversations for name in _unrepeated(model, lambda one=batch: learn([one]))}
        duration = _seconds(lambda: learn(conversations)) / len(conversations)
        kind = "repeatable" if repeatable else "as it comes"
        print(f"{layers}, {kind}: {1000 * duration:.1f} ms, {len(differing)} gradients differ", flush=True)
    model.freeze(["language"])
    for pictures in (1, PICTURES_AT_ONCE):
        speed = _BATCH * _MICRO_BATCHES / _seconds(lambda at_once=pictures: learn(captions, at_once))
        print(f"{layers}, tower for {pictures} pictures or one micro-batch at once: {speed:.1f} samples/s", flush=True)


def _unrepeated(model: VisionLanguageModel, learn: Callable[[], None]) -> set[str]:
    passes = []
    for _ in range(3):
        model.zero_grad(set_to_none=True)
        learn()
        passes.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    first, *others = passes
    return {name for other in others for name in first if not torch.equal(first[name], other[name])}


def _seconds(work: Callable[[], None], rounds: int = 6) -> float:
    for _ in range(2):
        work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / rounds


if __name__ == "__main__":
    main()
