"""Answers the requests of one partition; the entry of every generating process."""

import contextlib
import itertools
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL.Image import Image

from components.data.packing import EncodedSample
from components.data.pictures import Pictures
from components.data.prompt import encode_prompt
from components.data.tokenizer import ChatTokenizer
from components.errors import StageError
from components.generate.controls import blank_like
from components.generate.journal import JOURNAL_FOLDER, Journal, finished_batches
from components.generate.requests import BLANK, ModelInput, Request, batches_by_length, requests_of_partition
from components.generate.spec import FACTS_FILE, PREDICTIONS_FILE, GenerationSpec
from components.model.checkpoint.sharded import load_model
from components.model.config import CHECKPOINT_FOLDER, TOKENIZER_FOLDER, read_model_config
from components.model.decoding import generate
from components.model.distributed import ParallelState, destroy, initialize, on_first_rank
from components.model.vlm import VisionLanguageModel, build_model
from components.progress import Progress
from components.storage.atomic import open_atomic, write_json
from components.tasks.loading import load_samples


def generate_partition(spec: GenerationSpec) -> None:
    """Load the model and write the predictions of one partition; all processes of the task call it.

    Batches that an interrupted call finished are kept: it goes on after them.
    """
    place = initialize(spec.config.tensor_parallel)
    try:
        architecture = read_model_config(spec.model)
        dtype = torch.bfloat16 if place.device.type == "cuda" else torch.float32
        model = build_model(architecture, dtype=dtype, device=place.device, layers="local")
        load_model(model, spec.model / CHECKPOINT_FOLDER)
        model.eval()
        tokenizer = ChatTokenizer.load(spec.model / TOKENIZER_FOLDER)
        _Generation(spec, model, tokenizer, place).run()
    finally:
        destroy()


class _Generation:
    """What one process does.

    Args:
        spec: What it is told.
        model: The model, in evaluation mode.
        tokenizer: The model's tokenizer.
        place: Where the process stands.
    """

    def __init__(
        self, spec: GenerationSpec, model: VisionLanguageModel, tokenizer: ChatTokenizer, place: ParallelState
    ) -> None:
        self.spec, self.model, self.tokenizer, self.place = spec, model, tokenizer, place
        self.requests = requests_of_partition(
            load_samples(spec.raw, spec.task, spec.config.limit),
            spec.config.controls,
            partition=spec.partition,
            partitions=spec.config.partitions,
            seed=spec.config.seed,
        )
        self.inputs = list(dict.fromkeys(self._input_of(request) for request in self.requests))
        self.batches = batches_by_length(self._lengths(), spec.config.batch_size)
        self.journals = spec.output / JOURNAL_FOLDER

    def run(self) -> None:
        """Generate what is left; the first process puts the answers of all together."""
        start = time.monotonic()
        finished = on_first_rank(lambda: set(finished_batches(self.journals, self._sizes())))
        left = [number for number in range(len(self.batches)) if number not in finished]
        if finished and self.place.rank == 0:
            print(
                f"{self.spec.progress_stage}: {len(finished)} of {len(self.batches)} batches were done before",
                flush=True,
            )
        self._generate(left[self.place.data_rank :: self.place.data_parallel])
        torch.distributed.barrier()
        if self.place.rank == 0:
            self._merge(sum(len(self.batches[number]) for number in left), time.monotonic() - start)

    def _generate(self, numbers: list[int]) -> None:
        """Answer batches one after the other, while a thread reads the pictures of the next."""
        total = sum(len(self.batches[number]) for number in numbers)
        progress = Progress(self.spec.progress_stage, self.spec.progress_file if self.place.rank == 0 else None)
        progress.start("generating", total, "answers" if self.place.data_parallel == 1 else "answers per copy")
        done = 0
        with contextlib.ExitStack() as stack:
            pictures = stack.enter_context(Pictures(self.spec.raw))
            reader = stack.enter_context(ThreadPoolExecutor(max_workers=1))
            journal = stack.enter_context(Journal(self.journals, self.place.data_rank)) if self._writes else None
            upcoming = [reader.submit(self._prompts, number, pictures) for number in numbers[:1]]
            for number, following in itertools.zip_longest(numbers, numbers[1:]):
                prompts = upcoming.pop().result()
                if following is not None:
                    upcoming.append(reader.submit(self._prompts, following, pictures))
                answers = generate(
                    self.model,
                    prompts,
                    end_token=self.tokenizer.eos,
                    max_new_tokens=self.spec.config.max_new_tokens or self.spec.task.max_new_tokens,
                    sampling=self.spec.config.sampling,
                )
                if journal is not None:
                    journal.append(number, answers)
                done += len(answers)
                progress.update(done)

    def _merge(self, generated: int, elapsed_s: float) -> None:
        """Write the predictions in the dataset's order."""
        found = finished_batches(self.journals, self._sizes())
        missing = [number for number in range(len(self.batches)) if number not in found]
        if missing:
            raise StageError(f"{len(missing)} of {len(self.batches)} batches have no answers in {self.journals}.")
        answers = {
            self.inputs[index]: tokens
            for number, members in enumerate(self.batches)
            for index, tokens in zip(members, found[number], strict=True)
        }
        texts = {key: self.spec.task.clean(self.tokenizer.decode(tokens)) for key, tokens in answers.items()}
        rows = [(request, texts[self._input_of(request)]) for request in self.requests]
        _write_rows(self.spec, rows)
        facts = {
            "answers": len(answers),
            "answers_done_before": len(answers) - generated,
            "answer_tokens": sum(map(len, answers.values())),
            "answers_per_s": round(generated / max(elapsed_s, 1e-9), 2),
            "empties": sum(not text for request, text in rows if request.control == "none"),
        }
        write_json(self.spec.output / FACTS_FILE, facts)

    @property
    def _writes(self) -> bool:
        return self.place.tensor_rank == 0

    def _sizes(self) -> list[int]:
        return [len(members) for members in self.batches]

    def _input_of(self, request: Request) -> ModelInput:
        return request.model_input(drawn=not self.spec.config.sampling.greedy)

    def _lengths(self) -> list[int]:
        """Return the tokens of every prompt, without reading pictures."""
        of_prompt = {
            prompt: self._encode(prompt, None, "").length for prompt in {shown.prompt for shown in self.inputs}
        }
        return [of_prompt[shown.prompt] + self.model.architecture.image.tokens for shown in self.inputs]

    def _prompts(self, number: int, pictures: Pictures) -> list[EncodedSample]:
        side = self.model.architecture.image.size
        prompts = []
        for index in self.batches[number]:
            shown = self.inputs[index]
            picture = blank_like((side, side)) if shown.picture == BLANK else pictures.open(shown.picture)
            prompts.append(self._encode(shown.prompt, picture, shown.draws))
        return prompts

    def _encode(self, prompt: str, picture: Image | None, key: str) -> EncodedSample:
        return encode_prompt(
            prompt,
            picture,
            tokenizer=self.tokenizer,
            settings=self.model.architecture.image,
            prompt_format=self.spec.task.prompt.format,
            key=key,
        )


def _write_rows(spec: GenerationSpec, rows: Sequence[tuple[Request, str]]) -> None:
    with open_atomic(spec.output / PREDICTIONS_FILE, "w") as stream:
        for request, text in rows:
            row: dict[str, Any] = {
                "id": request.sample.id,
                "control": request.control,
                "image": request.picture,
                "prompt": request.sample.prompt,
                "text": text,
                "generation": spec.generation,
            }
            if request.sample.category:
                row["category"] = request.sample.category
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
