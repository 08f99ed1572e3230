"""Exports behind a real vLLM server: the same prompts, the same answers, and `vlm evaluate --endpoint` against it.

    python -m tests.benchmarks.served_by_vllm --vllm VENV/bin/python [--families qwen2 ...] [--model FOLDER]

For every pair of families that a preset names a small random model is converted, combined and exported by the real stages, and
`vllm.entrypoints.openai.api_server` of the other Python serves the export in float32. Questions with a picture, of many sizes, are answered
by the checkpoint, by transformers one by one, and by the server; compared are the prompts' token ids (so also how many image tokens a
picture has), the tokens of the answers, and the logarithms of the first token's probabilities that the server tells. Then the generation
stage asks the server and the checkpoint a task. With `--model` a finished model folder of a run is taken instead.

vLLM does not read `suppress_tokens` of `generation_config.json`: the image token is kept out of answers by `logit_bias`. It resizes with
torchvision, a level of 255 beside PIL in some pixels; `--arguments '--mm-processor-kwargs {"backend":"pil"}'` makes it PIL's.
"""

import argparse
import base64
import contextlib
import io
import itertools
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from components.context import RunContext
from components.data.image import normalise
from components.data.packing import EncodedSample, pack
from components.data.prompt import encode_prompt
from components.data.tokenizer import ChatTokenizer
from components.export.config import ExportConfig
from components.export.stage import run_export
from components.generate.config import GenerateConfig
from components.generate.stage import run_generate
from components.model.config import TOKENIZER_FOLDER, read_model_config
from components.model.decoding import generate
from components.model.distributed import single_process
from components.published_model.config import Endpoint, PublishedModel
from components.published_model.stage import run_published_model
from tests.support.evaluation_world import SHORT_QUESTIONS, raw_dataset
from tests.support.export_world import Sources, loaded

NAME = "export"
NEW_TOKENS = 16
PIXELS = 1e-5  # stock processors cut the shorter side of some padded pictures off by a pixel
TOP = 20  # as many logarithms as the API tells
START_S = 300
SIZES = ((64, 48), (48, 64), (97, 61), (61, 97), (300, 100), (640, 480), (33, 31))
WIDTHS = {
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
LANGUAGE = {**WIDTHS, "num_hidden_layers": 2, "max_position_embeddings": 512}
VISION = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "image_size": 32}
STRETCHED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
PAIRS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen2": ("siglip", "squash", {"tie_word_embeddings": True}),
    "qwen3": ("siglip", "squash", {}),
    "llama": ("siglip", "squash", {"rope_theta": 5e5, "rope_scaling": STRETCHED}),
    "mistral": ("clip", "pad", {}),
}
"""Family of the language model to the tower's, layout of pictures and what is special, as in the presets.

Heads are 32 wide, vLLM's narrowest on CPUs.
"""


@dataclass(frozen=True)
class Case:
    """A question about a picture."""

    question: str
    picture: Image.Image


@dataclass(frozen=True)
class Said:
    """What one side reads and says of a case.

    Attributes:
        prompt: Ids of the prompt; of every picture all its tokens.
        answer: Ids of the answer, without what ends it.
        first: Logarithm of the first token's probability, by id.
        pixels: The picture as the tower gets it; None where it is not told.
    """

    prompt: list[int]
    answer: list[int]
    first: dict[int, float]
    pixels: torch.Tensor | None = None


def main() -> None:
    """Serve, ask, compare and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, metavar="PYTHON", help="a Python that has vLLM")
    parser.add_argument("--families", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--model", type=Path, help="a finished model folder, instead of small random ones")
    parser.add_argument("--arguments", default="", help="more arguments of the server")
    parser.add_argument("--cases", type=int, default=40)
    options = parser.parse_args()
    kinds = ("pictures of the tower's size", "others")
    columns = [f"{kind}: as {side}" for kind in kinds for side in ("the checkpoint", "transformers")]
    print(f"| model | equal prompts | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        for family in ["the given model"] if options.model else options.families:
            folder = Path(name) / family.replace(" ", "-")
            context, model = _given(folder, options.model) if options.model else _drawn(folder, family)
            exported = run_export(context, ExportConfig(), model).folder
            cases = _cases(options.cases, read_model_config(model).image.size)
            own, theirs = _own(model, cases), _transformers(exported, cases)
            with _served(options, exported, folder / "server.log") as address:
                bias = {str(read_model_config(model).image_token_id): -100.0}
                _print_row(family, own, theirs, [_ask(address, case, bias) for case in cases])
                _evaluate(address, bias, context, model)


def _given(folder: Path, model: Path) -> tuple[RunContext, Path]:
    return RunContext(run_id="t", run_name="t", workspace=folder / "workspace"), model.absolute()


def _drawn(folder: Path, family: str) -> tuple[RunContext, Path]:
    tower, layout, special = PAIRS[family]
    sources = Sources(
        folder,
        families=(family, tower),
        language={**LANGUAGE, **special},
        vision=VISION,
        image={"layout": layout},
        projector={"ffn_hidden_size": None, "activation": "gelu", "bias": True, "init": "uniform"},
    )
    return sources.context, sources.model


def _cases(count: int, size: int) -> list[Case]:
    """Return questions about smooth noise, as photographs are; every second picture has the tower's size and is not resized."""
    generator = np.random.default_rng(20243)
    cases = []
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        sides = SIZES[number // 2 % len(SIZES)] if number % 2 else (size, size)
        picture = coarse.resize(sides, Image.Resampling.BICUBIC)
        cases.append(
            Case(f"What is left of the {['red', 'blue', 'green'][number % 3]} circle, number {number}?", picture)
        )
    return cases


def _own(model: Path, cases: Sequence[Case]) -> list[Said]:
    tokenizer, settings = ChatTokenizer.load(model / TOKENIZER_FOLDER), read_model_config(model).image
    prompts = [
        encode_prompt(
            case.question,
            [case.picture],
            tokenizer=tokenizer,
            settings=settings,
            prompt_format="instruct",
            key=case.question,
        )
        for case in cases
    ]
    with single_process(), torch.no_grad():
        network = loaded(model)
        rows = network.architecture.language.vocabulary_size
        answers = generate(network, prompts, end_tokens=tokenizer.ends, max_new_tokens=NEW_TOKENS)
        said = []
        for prompt, answer in zip(prompts, answers, strict=True):
            (batch,) = pack([_unlabelled(prompt)], sequence_length=prompt.length)
            pixels = normalise(batch.pixels, batch.valid, settings)
            last = network(batch, pixels)[-1, :rows]
            said.append(Said(prompt.tokens.tolist(), answer, _logarithms(last), pixels))
    return said


def _unlabelled(prompt: EncodedSample) -> EncodedSample:
    return EncodedSample(prompt.key, prompt.tokens, torch.full_like(prompt.tokens, -100), prompt.pixels, prompt.valid)


@torch.no_grad()
def _transformers(exported: Path, cases: Sequence[Case]) -> list[Said]:
    model = AutoModelForImageTextToText.from_pretrained(exported, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(exported, backend="pil")
    said = []
    for case in cases:
        content = [{"type": "image", "image": case.picture}, {"type": "text", "text": case.question}]
        read = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        found = model.generate(**read, max_new_tokens=NEW_TOKENS, do_sample=False)
        length = read["input_ids"].shape[1]
        answer = _without_end(found[0, length:].tolist(), model)
        first = _logarithms(model(**read).logits[0, -1])
        said.append(Said(read["input_ids"][0].tolist(), answer, first, read["pixel_values"]))
    return said


def _logarithms(logits: torch.Tensor) -> dict[int, float]:
    return dict(enumerate(logits.log_softmax(-1).tolist()))


def _without_end(tokens: list[int], model: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else ends
    return next((tokens[:place] for place, token in enumerate(tokens) if token in ends), tokens)


@contextlib.contextmanager
def _served(options: argparse.Namespace, exported: Path, log: Path) -> Iterator[str]:
    """Serve a folder; yields the API's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        options.vllm,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(exported),
        "--served-model-name",
        NAME,
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "512", "--max-num-seqs", "8"]
    command += shlex.split(options.arguments)
    own = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, cwd=log.parent, start_new_session=True
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(server, address, log)
            yield address
        finally:
            server.terminate()
            server.wait(60)


def _wait(server: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{address}/health", timeout=2).ok:
                return
        time.sleep(1)
    sys.exit("vLLM did not start:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]))


def _ask(address: str, case: Case, bias: Mapping[str, float]) -> Said:
    content = io.BytesIO()
    case.picture.save(content, "PNG")
    url = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": case.question}]
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": TOP,
        "logit_bias": bias,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    response = requests.post(f"{address}/v1/chat/completions", json=body, timeout=300)
    if not response.ok:
        sys.exit(f"{response.status_code}: {response.text}")
    found = response.json()
    choice = found["choices"][0]
    if found["usage"]["prompt_tokens"] != len(found["prompt_token_ids"]):
        sys.exit(f"{found['usage']} for {len(found['prompt_token_ids'])} tokens")
    first = {
        int(entry["token"].removeprefix("token_id:")): entry["logprob"]
        for entry in choice["logprobs"]["content"][0]["top_logprobs"]
    }
    answer = choice["token_ids"][:-1] if choice["finish_reason"] == "stop" else choice["token_ids"]
    return Said(found["prompt_token_ids"], answer, first)


def _print_row(name: str, own: Sequence[Said], theirs: Sequence[Said], served: Sequence[Said]) -> None:
    sides = list(zip(own, theirs, served, strict=True))
    prompts = sum(one.prompt == two.prompt == three.prompt for one, two, three in sides)
    alike = [bool((one.pixels - two.pixels).abs().max() < PIXELS) for one, two, _ in sides]
    cells = [f"{prompts} of {len(sides)}"]
    for kind in (range(0, len(sides), 2), range(1, len(sides), 2)):
        ours, others, there = zip(*(sides[number] for number in kind), strict=True)
        laid_out = [alike[number] for number in kind]
        cells.append(_pair(list(itertools.compress(ours, laid_out)), list(itertools.compress(there, laid_out))))
        cells.append(_pair(others, there))
    print(f"| {name} | {' | '.join(cells)} |", flush=True)
    for number, (one, two, three) in enumerate(sides):
        if not one.answer == two.answer == three.answer:
            print(f"case {number}: {one.answer} {two.answer} {three.answer}")


def _pair(sides: Sequence[Said], served: Sequence[Said]) -> str:
    """Return how many answers are equal, and the largest difference of a logarithm."""
    both = list(zip(sides, served, strict=True))
    equal = sum(one.answer == there.answer for one, there in both)
    largest = max(abs(one.first[token] - value) for one, there in both for token, value in there.first.items())
    return f"{equal} of {len(both)}, {largest:.1e}"


def _evaluate(address: str, bias: Mapping[str, float], context: RunContext, model: Path) -> None:
    """Ask server and checkpoint a task by the stages of `vlm evaluate`, and print how many answers are equal, and tokens."""
    raw = raw_dataset(context, 24, side=48)
    task = context.workspace / "short_questions.yaml"
    task.write_text(SHORT_QUESTIONS)
    config = GenerateConfig(task=str(task), batch_size=8)
    endpoint = Endpoint(url=f"{address}/v1", name=NAME, body={"logit_bias": dict(bias)})
    served = run_published_model(context, PublishedModel(endpoint=endpoint), "served").folder
    outputs = [run_generate(context, config, folder, raw, 0) for folder in (model, served)]
    ours, theirs = (
        (output.folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines() for output in outputs
    )
    texts = [(json.loads(one)["text"], json.loads(two)["text"]) for one, two in zip(ours, theirs, strict=True)]
    tokens = [tuple(output.manifest.facts[name] for name in ("prompt_tokens", "answer_tokens")) for output in outputs]
    # A random model says halves of characters, which the two write down differently.
    equal = sum(one.replace("\ufffd", "").strip() == two.replace("\ufffd", "").strip() for one, two in texts)
    print(
        f"a task: {equal} of {len(texts)} answers equal; tokens of prompts and answers: {tokens[0]}, served {tokens[1]}\n"
    )


if __name__ == "__main__":
    main()
