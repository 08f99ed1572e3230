"""Speed and memory of weight conversion and combine, on random weights of Mistral-7B's and CLIP ViT-L/14@336's shape.

    python -m tests.benchmarks.weight_conversion [--folder DIR] [--layers 32] [--hidden 4096] [--keep]

Writes the source once (bf16, files of about 5 GB as on the hub), measures how fast the disk copies it (read, write, fsync),
then runs the real stages in a process of their own and prints for each: seconds, MB/s of source, the ratio to the disk's
copy, and the peaks of resident and of anonymous memory. Resident memory counts pages of mapped files, which the system
takes back when it needs them; anonymous memory is what has to fit. Needs four times the source in disk space.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file

from components.context import RunContext
from tests.support.finished import finish

_FILE_BYTES = 5_000_000_000
_COPY_CHUNK = 1 << 24
_POLL_S = 0.05
_MB = 1e6
_GIB = 2**30


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--keep", action="store_true", help="leave the source and the outputs there")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        _run_step(options.folder, options.step)
        return
    folder = options.folder or Path(tempfile.mkdtemp())
    try:
        _measure(folder, options.layers, options.hidden)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path, layers: int, hidden: int) -> None:
    weights = folder / "weights"
    if not (weights / "manifest.json").is_file():
        _write_source(weights, layers, hidden)
    size = {part: _bytes(weights / part) for part in ("language", "vision")}
    rows = [("copy of the files, with fsync", size["language"], _copy(weights / "language", folder / "copy"), 0, 0)]
    shutil.rmtree(folder / "copy")
    steps = {
        "language, not verified": ("language-unverified", size["language"]),
        "language, verified": ("language", size["language"]),
        "vision, verified": ("vision", size["vision"]),
        "combine": ("combine", size["language"] + size["vision"]),
    }
    for name, (step, nbytes) in steps.items():
        rows.append((name, nbytes, *_in_process(folder, step)))
        if step == "language-unverified":
            shutil.rmtree(folder / "workspace")
    copy_speed = rows[0][1] / rows[0][2]
    print(f"\nLanguage source: {size['language'] / 1e9:.2f} GB, vision source: {size['vision'] / 1e9:.2f} GB")
    print("\n| step | s | MB/s of source | of the disk's copy | peak resident GiB | peak anonymous GiB |")
    print("|---|---|---|---|---|---|")
    for name, nbytes, seconds, resident, anonymous in rows:
        speed = nbytes / seconds
        memory = f"{resident / _GIB:.1f} | {anonymous / _GIB:.1f}" if resident else " | "
        print(f"| {name} | {seconds:.0f} | {speed / _MB:.0f} | {speed / copy_speed:.2f} | {memory} |")
    for path in sorted((folder / "workspace").glob("*/*/*/manifest.json")):
        facts = json.loads(path.read_text())["facts"]
        if "max_logit_difference" in facts:
            print(
                f"\n{path.parents[1].name}: {facts['parameters'] / 1e9:.3f} G parameters, largest difference "
                f"{facts['max_logit_difference']:.3g} of values up to {facts['largest_logit']:.3g}"
            )


def _run_step(folder: Path, step: str) -> None:
    """Run one stage; the child's side of `_in_process`."""
    from components.combine.config import CombineConfig
    from components.combine.stage import run_combine
    from components.weight_conversion.config import WeightConversionConfig
    from components.weight_conversion.stage import run_weight_conversion
    from pipelines.preset_files import load_preset

    context = RunContext(run_id="benchmark", run_name="benchmark", workspace=folder / "workspace")
    preset = load_preset("mistral-clip-7b")

    def convert(config: WeightConversionConfig) -> Path:
        return run_weight_conversion(context, config, folder / "weights").folder

    if step == "combine":
        parts = [convert(getattr(preset.weight_conversion, part)) for part in ("language", "vision")]
        projector = preset.combine.projector
        run_combine(context, CombineConfig(projector=projector, image=preset.combine.image), *parts)
    elif step == "language-unverified":
        convert(preset.weight_conversion.language.model_copy(update={"verify": False}))
    else:
        convert(getattr(preset.weight_conversion, step))


def _in_process(folder: Path, step: str) -> tuple[float, int, int]:
    """Run a step in a fresh process; return seconds and the peaks of resident and anonymous memory in bytes."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.weight_conversion"]
    start = time.monotonic()
    child = subprocess.Popen([*command, "--folder", str(folder), "--step", step])
    resident = anonymous = 0
    process = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            memory = process.memory_info()
        except psutil.NoSuchProcess:
            break
        resident = max(resident, memory.rss)
        anonymous = max(anonymous, memory.rss - memory.shared)
        time.sleep(_POLL_S)
    if child.wait():
        raise SystemExit(f"{step} failed")
    return time.monotonic() - start, resident, anonymous


def _write_source(weights: Path, layers: int, hidden: int) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel, MistralConfig

    from tests.support.model_world import tokenizer

    config = MistralConfig(
        architectures=["MistralForCausalLM"],
        vocab_size=32768,
        hidden_size=hidden,
        intermediate_size=hidden * 7 // 2,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 128,
        num_key_value_heads=max(1, hidden // 512),
        max_position_embeddings=32768,
        rope_theta=1e6,
        sliding_window=None,
        dtype="bfloat16",
    )
    config.save_pretrained(weights / "language")
    tokenizer(weights / "language")
    _write_language(config, weights / "language")
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    CLIPVisionModel(vision).to(torch.bfloat16).save_pretrained(weights / "vision")
    finish(weights, "download/weights", "random")


def _write_language(config: Any, folder: Path) -> None:
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        shapes = {
            name: parameter.shape for name, parameter in AutoModelForCausalLM.from_config(config).named_parameters()
        }
    generator = torch.Generator().manual_seed(0)
    # One drawn block, cut out at another place for every tensor: drawing seven billion numbers takes minutes.
    block = (torch.randn(1 << 27, generator=generator) * 0.02).to(torch.bfloat16)
    index: dict[str, str] = {}
    pending: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        start = int(torch.randint(len(block), (1,), generator=generator))
        count = shape.numel()
        copies = -(-(start + count) // len(block))
        value = block.repeat(copies)[start : start + count].view(shape).clone()
        pending[name] = value.abs() + 1 if name.endswith("norm.weight") else value
        if sum(tensor.nbytes for tensor in pending.values()) > _FILE_BYTES:
            _flush(pending, index, folder)
    _flush(pending, index, folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def _flush(pending: dict[str, torch.Tensor], index: dict[str, str], folder: Path) -> None:
    name = f"model-{len(set(index.values())) + 1:05}.safetensors"
    save_file(pending, folder / name, metadata={"format": "pt"})
    index.update(dict.fromkeys(pending, name))
    pending.clear()


def _copy(source: Path, target: Path) -> float:
    """Copy a folder's files and wait until the disk has them; return seconds."""
    target.mkdir(parents=True)
    start = time.monotonic()
    for path in sorted(source.iterdir()):
        with open(path, "rb") as reader, open(target / path.name, "wb") as writer:
            shutil.copyfileobj(reader, writer, _COPY_CHUNK)
            writer.flush()
            os.fsync(writer.fileno())
    return time.monotonic() - start


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix == ".safetensors")


if __name__ == "__main__":
    main()
