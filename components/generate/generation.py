"""Answers the requests of one partition; the entry of every tensor-parallel process."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from components.data.packing import EncodedSample
from components.data.prompt import encode_prompt
from components.data.tokenizer import ChatTokenizer
from components.generate.config import GenerateConfig
from components.generate.controls import blank_like
from components.generate.dataset import Pictures, load_samples
from components.generate.decoding import generate_greedy
from components.generate.requests import BLANK, Request, requests_of_partition
from components.generate.task import Task
from components.model.checkpoint import load_model
from components.model.config import CHECKPOINT_FOLDER, TOKENIZER_FOLDER, ModelConfig, read_model_config
from components.model.distributed import ParallelState, destroy, initialize
from components.model.vlm import VisionLanguageModel, build_model
from components.stage.progress import Progress
from components.storage.atomic import open_atomic, write_json

PREDICTIONS_FILE = "predictions.jsonl"
FACTS_FILE = "generation.json"


class GenerationSpec(BaseModel):
    """What a generating process is told.

    Attributes:
        config: The stage's settings.
        task: The loaded task.
        model: Model folder.
        raw: Raw dataset folder.
        partition: Number of the partition, from 0.
        generation: Hash of everything that decides the predictions, written into each of them.
        output: Folder that gets `predictions.jsonl` and `generation.json`.
        progress_stage: Name shown in progress.
        progress_file: Progress file for displays, or None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: GenerateConfig
    task: Task
    model: Path
    raw: Path
    partition: int
    generation: str
    output: Path
    progress_stage: str
    progress_file: Path | None = None


def generate_partition(spec: GenerationSpec) -> None:
    """Load the model and write the predictions of one partition; all tensor-parallel processes call it."""
    place = initialize(spec.config.tensor_parallel)
    try:
        architecture = read_model_config(spec.model)
        dtype = torch.bfloat16 if place.device.type == "cuda" else torch.float32
        model = build_model(architecture, dtype=dtype, device=place.device, layers="local")
        load_model(model, spec.model / CHECKPOINT_FOLDER)
        model.eval()
        tokenizer = ChatTokenizer.load(spec.model / TOKENIZER_FOLDER)
        _write_predictions(spec, model, tokenizer, place)
    finally:
        destroy()


def _write_predictions(
    spec: GenerationSpec, model: VisionLanguageModel, tokenizer: ChatTokenizer, place: ParallelState
) -> None:
    config, task = spec.config, spec.task
    requests = requests_of_partition(
        load_samples(spec.raw, task, config.limit),
        config.controls,
        partition=spec.partition,
        partitions=config.partitions,
        seed=config.seed,
    )
    distinct = list(dict.fromkeys(request.model_input for request in requests))
    progress = Progress(spec.progress_stage, spec.progress_file if place.rank == 0 else None)
    progress.start("generating", len(distinct), "answers")
    start = time.monotonic()
    answers: dict[tuple[str, str], list[int]] = {}
    with Pictures(spec.raw) as pictures:
        for first in range(0, len(distinct), config.batch_size):
            inputs = distinct[first : first + config.batch_size]
            prompts = [_encode(key, pictures, tokenizer, model.architecture, task) for key in inputs]
            tokens = generate_greedy(
                model,
                prompts,
                end_token=tokenizer.eos,
                max_new_tokens=config.max_new_tokens or task.max_new_tokens,
                device=place.device,
            )
            answers.update(zip(inputs, tokens, strict=True))
            if place.rank == 0:
                progress.update(len(answers))
    if place.rank == 0:
        texts = {key: task.clean(tokenizer.decode(tokens)) for key, tokens in answers.items()}
        _write_rows(spec, requests, texts)
        facts = {
            "answers": len(distinct),
            "answer_tokens": sum(map(len, answers.values())),
            "answers_per_s": round(len(distinct) / max(time.monotonic() - start, 1e-9), 2),
            "empties": sum(not texts[request.model_input] for request in requests if request.control == "none"),
        }
        write_json(spec.output / FACTS_FILE, facts)


def _encode(
    model_input: tuple[str, str], pictures: Pictures, tokenizer: ChatTokenizer, architecture: ModelConfig, task: Task
) -> EncodedSample:
    name, prompt = model_input
    side = architecture.image.size
    picture = blank_like((side, side)) if name == BLANK else pictures.open(name)
    return encode_prompt(
        prompt, picture, tokenizer=tokenizer, settings=architecture.image, prompt_format=task.prompt.format, key=name
    )


def _write_rows(spec: GenerationSpec, requests: Sequence[Request], texts: dict[tuple[str, str], str]) -> None:
    with open_atomic(spec.output / PREDICTIONS_FILE, "w") as stream:
        for request in requests:
            row: dict[str, Any] = {
                "id": request.sample.id,
                "control": request.control,
                "image": request.picture,
                "prompt": request.sample.prompt,
                "text": texts[request.model_input],
                "generation": spec.generation,
            }
            if request.sample.category:
                row["category"] = request.sample.category
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
