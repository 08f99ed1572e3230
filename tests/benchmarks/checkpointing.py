"""How long training stands still for a checkpoint: written in the background, and by megatron-core's synchronous save.

    python -m tests.benchmarks.checkpointing [--hidden 1024] [--layers 8] [--saves 3] [--folder DIR]

One process, on the GPU where there is one (bf16 with fp32 master weights; fp32 on a CPU), with a randomly filled model of
Mistral's and CLIP's proportions. For fine-tuning (the language model trains) and pretraining (the projector alone) it prints
the size of a checkpoint, how long a step waits for it, when it is complete on the disk, how much longer the steps
beside the writing take, and the size and time of a synchronous save of everything, frozen parts too. A step is the
optimizer's update and some matrix products. Needs twice the largest checkpoint in disk space.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from components.model.checkpoint.sharded import save_sharded, sharded_parameters
from components.model.config import ModelConfig, Part, ProjectorConfig
from components.model.distributed import destroy, initialize
from components.model.vlm import VisionLanguageModel, build_model
from components.training.checkpoint.contents import Counters
from components.training.checkpoint.layout import checkpoint_folder, checkpoints
from components.training.checkpoint.retention import Retention
from components.training.checkpoint.saving import CheckpointSaver
from components.training.config import Recipe
from components.training.optimizer import MasterWeightAdamW
from tests.support.model_config import CLIP_L_336, IMAGE_336, MISTRAL_7B, changed

FROZEN: dict[str, list[Part]] = {"fine-tuning": ["vision"], "pretraining": ["language", "vision"]}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    parallel = initialize(1)
    try:
        print(
            "| stage | MB | stall s | written after s | steps beside it | synchronous: MB | stall s |\n|---|---|---|---|---|---|---|"
        )
        for stage, frozen in FROZEN.items():
            on_gpu = parallel.device.type == "cuda"
            dtype = torch.bfloat16 if on_gpu else torch.float32
            model = build_model(_shape(options.hidden, options.layers), dtype=dtype, device=parallel.device)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.normal_(std=0.02)
            model.freeze(frozen)
            _measure(stage, model, folder / stage, options.saves)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        destroy()


def _measure(stage: str, model: VisionLanguageModel, folder: Path, saves: int) -> None:
    optimizer = MasterWeightAdamW(model, _recipe())
    saver = CheckpointSaver(folder, Retention(newest=1), start="benchmark")
    device = next(model.parameters()).device
    alone = statistics.median(_step(optimizer, device) for _ in range(5))
    stalls, complete, beside = [], [], []
    for number in range(saves + 1):
        start = time.perf_counter()
        saver.save(Counters(step=number), model, optimizer, b"loader state")
        stall = time.perf_counter() - start
        steps = [_step(optimizer, device)]
        while saver.writing:
            steps.append(_step(optimizer, device))
        saver.finish()
        saver.close()
        if number:  # the first one allocates the host memory
            stalls.append(stall)
            complete.append(time.perf_counter() - start)
            beside.append(statistics.median(steps) / alone)
    (newest,) = checkpoints(folder)
    size = _megabytes(newest)
    shutil.rmtree(checkpoint_folder(folder, saves))
    whole = sharded_parameters(model)
    whole_state = {"model": whole, "optimizer": optimizer.sharded_state_dict(whole)}
    start = time.perf_counter()
    save_sharded(whole_state, folder / "synchronous")
    synchronous = time.perf_counter() - start
    print(
        f"| {stage} | {size:.0f} | {statistics.median(stalls):.2f} | {statistics.median(complete):.1f} | "
        f"{statistics.median(beside):.2f} x | {_megabytes(folder / 'synchronous'):.0f} | {synchronous:.2f} |",
        flush=True,
    )
    shutil.rmtree(folder)


def _step(optimizer: MasterWeightAdamW, device: torch.device) -> float:
    """Do the work of a step and return its seconds."""
    start = time.perf_counter()
    matrix = torch.rand(2048, 2048, device=device)
    for _ in range(8):
        matrix = (matrix @ matrix).sigmoid()
    optimizer.step(1e-5)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _shape(hidden: int, layers: int) -> ModelConfig:
    heads = hidden // 64
    return ModelConfig(
        language=changed(
            MISTRAL_7B,
            num_layers=layers,
            hidden_size=hidden,
            ffn_hidden_size=hidden * 7 // 2,
            num_attention_heads=heads,
            num_query_groups=heads // 4,
            kv_channels=64,
        ),
        vision=changed(
            CLIP_L_336,
            num_layers=max(1, layers * 3 // 4),
            hidden_size=hidden // 4,
            ffn_hidden_size=hidden,
            num_attention_heads=heads,
        ),
        projector=ProjectorConfig(ffn_hidden_size=hidden * 7 // 2),
        image=IMAGE_336,
        image_token_id=10,
    )


def _recipe() -> Recipe:
    return Recipe(
        train_language=True,
        train_vision=False,
        prompt_format="plain",
        iterations=1,
        global_batch_size=1,
        sequence_length=1024,
        learning_rate=1e-5,
        min_learning_rate=1e-5,
        save_interval=1,
    )


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    main()
