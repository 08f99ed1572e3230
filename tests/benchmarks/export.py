"""Speed and memory of the export.

    python -m tests.benchmarks.export [--layers 4] [--hidden 4096] [--shard-bytes 500000000] [--verify-tokens 2]

Makes a random bfloat16 model of the reference recipe's widths (Mistral-7B and CLIP ViT-L/14@336 with fewer layers; 32 and
24 are the whole model), exports it in a process of its own without and with verification, and copies the result for
comparison. Peak memory counts what the process holds, without the pages of mapped files.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from components.download.random_weights import train_tokenizer
from components.model.checkpoint.streamed import save_streamed
from components.model.config import (
    CHECKPOINT_FOLDER,
    TOKENIZER_FOLDER,
    ModelConfig,
    ProjectorConfig,
    write_model_config,
)
from components.model.distributed import single_process
from components.model.vlm import outlined_model
from components.storage.atomic import open_atomic
from tests.support.finished import finish
from tests.support.model_config import CLIP_L_336, IMAGE_336, MISTRAL_7B, changed

_STD = 0.02
_CHUNK_BYTES = 1 << 22
_WORK = """
import json, sys, threading, time
from pathlib import Path
import psutil
from components.export.config import ExportConfig
from components.export.stage import export_to
import components.export.verify

peak = [0]

def watch():
    while True:
        memory = psutil.Process().memory_full_info()
        peak[0] = max(peak[0], memory.uss)
        time.sleep(0.05)

threading.Thread(target=watch, daemon=True).start()
start = time.monotonic()
facts = export_to(ExportConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
print(json.dumps({"seconds": time.monotonic() - start, "peak": peak[0], **facts}))
"""


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=4096, help="of the language model, a multiple of 512")
    parser.add_argument("--shard-bytes", type=int, default=500_000_000)
    parser.add_argument("--verify-tokens", type=int, default=2)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = _random_model(folder / "model", options.layers, options.hidden)
        for verify in (False, True):
            settings = {
                "custom_code": True,
                "max_shard_bytes": options.shard_bytes,
                "verify": verify,
                "verify_tokens": options.verify_tokens,
            }
            result = _export(settings, model, folder / f"verified-{verify}")
            label = f"export, verified with {options.verify_tokens} tokens" if verify else "export"
            rows.append((label, result["bytes"], result["seconds"], result["peak"]))
        start = time.monotonic()
        for path in sorted((folder / "verified-False").glob("*.safetensors")):
            _copy(path, folder / "copy" / path.name)
        rows.append(("copy of its files", rows[0][1], time.monotonic() - start, 0))
    print("\n| what | GB | seconds | MB/s | peak memory, GB |\n|---|---|---|---|---|")
    for label, size, seconds, peak in rows:
        print(f"| {label} | {size / 1e9:.2f} | {seconds:.1f} | {size / 1e6 / seconds:.0f} | {peak / 1e9:.2f} |")


def _random_model(folder: Path, layers: int, hidden: int) -> Path:
    tokens = folder / TOKENIZER_FOLDER
    tokens.mkdir(parents=True)
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a red circle"}]
    for name in ("pretrain.json", "sft.json"):
        (tokens / name).write_text(json.dumps([{"id": "1", "conversations": turns}]))
    tokenizer = train_tokenizer(tokens, 300)
    tokenizer.save(str(tokens / "tokenizer.json"))
    config = ModelConfig(
        language=changed(
            MISTRAL_7B,
            num_layers=layers,
            hidden_size=hidden,
            ffn_hidden_size=hidden * 7 // 2,
            num_attention_heads=hidden // 128,
            num_query_groups=hidden // 512,
        ),
        vision=changed(CLIP_L_336, num_layers=max(1, layers * 3 // 4)),
        projector=ProjectorConfig(ffn_hidden_size=hidden * 7 // 2),
        image=IMAGE_336,
        image_token_id=tokenizer.token_to_id("[IMG]"),
    )
    with single_process():
        outline = outlined_model(config, torch.bfloat16)
        shapes = {name: parameter.shape for name, parameter in outline.named_parameters()}
        save_streamed(
            outline,
            folder / CHECKPOINT_FOLDER,
            lambda name: torch.randn(shapes[name], dtype=torch.bfloat16) * _STD + float("norm" in name),
        )
    write_model_config(folder, config)
    return finish(folder, "combine")


def _export(settings: dict[str, object], model: Path, target: Path) -> dict[str, float]:
    arguments = [sys.executable, "-c", _WORK, json.dumps(settings), str(model), str(target)]
    output = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    print(f"largest logit difference: {result['max_logit_difference']}", flush=True)
    return result


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb") as reader, open_atomic(target) as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            writer.write(chunk)


if __name__ == "__main__":
    main()
