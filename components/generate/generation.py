"""Answers the requests of one partition; the entry of every generating process."""

import contextlib
import json
import time
from collections.abc import Sequence
from typing import Any

from components.data.pictures import Pictures
from components.errors import StageError
from components.generate.answerer import Answerer, Asking, Place
from components.generate.journal import JOURNAL_FOLDER, Journal, finished_batches
from components.generate.registry import open_answerer
from components.generate.requests import ModelInput, Request, requests_of_partition
from components.generate.spec import FACTS_FILE, PREDICTIONS_FILE, GenerationSpec
from components.progress import Progress
from components.storage.atomic import open_atomic, write_json
from components.tasks.loading import load_samples


def generate_partition(spec: GenerationSpec) -> None:
    """Make the model ready and write the predictions of one partition; all processes of the task call it.

    Batches that an interrupted call finished are kept: it goes on after them.
    """
    with open_answerer(spec.model, spec.config) as answerer:
        answer_partition(spec, answerer)


def answer_partition(spec: GenerationSpec, answerer: Answerer) -> None:
    """Write the predictions of one partition with a model that is ready; see `generate_partition`."""
    _Generation(spec, answerer).run()


class _Generation:
    """What one process does.

    Args:
        spec: What it is told.
        answerer: The model.
    """

    def __init__(self, spec: GenerationSpec, answerer: Answerer) -> None:
        self.spec, self.answerer, self.place = spec, answerer, answerer.place
        self.asking = Asking.of(spec.config, spec.task)
        self.requests = requests_of_partition(
            load_samples(spec.raw, spec.task, spec.config.limit),
            spec.config.controls,
            partition=spec.partition,
            partitions=spec.config.partitions,
            seed=spec.config.seed,
        )
        self.inputs = list(dict.fromkeys(self._input_of(request) for request in self.requests))
        self.batches = answerer.batches(self.inputs, self.asking)
        self.journals = spec.output / JOURNAL_FOLDER

    def run(self) -> None:
        """Generate what is left; the first process puts the answers of all together."""
        start = time.monotonic()
        finished = self._finished()
        left = [number for number in range(len(self.batches)) if number not in finished]
        if finished and self.place.rank == 0:
            print(
                f"{self.spec.progress_stage}: {len(finished)} of {len(self.batches)} batches were done before",
                flush=True,
            )
        self._generate(left[self.place.copy :: self.place.copies])
        _wait_for_all(self.place)
        if self.place.rank == 0:
            self._merge(sum(len(self.batches[number]) for number in left), time.monotonic() - start)

    def _finished(self) -> set[int]:
        """Return the batches that are done, the same on all processes."""

        def finished() -> set[int]:
            return set(finished_batches(self.journals, self._sizes()))

        if self.place.processes == 1:
            return finished()
        from components.model.distributed import on_first_rank

        return on_first_rank(finished)

    def _generate(self, numbers: list[int]) -> None:
        """Answer batches and write every one down when it is done."""
        total = sum(len(self.batches[number]) for number in numbers)
        progress = Progress(self.spec.progress_stage, self.spec.progress_file if self.place.rank == 0 else None)
        progress.start("generating", total, "answers" if self.place.copies == 1 else "answers per copy")
        done = 0
        with contextlib.ExitStack() as stack:
            pictures = stack.enter_context(Pictures(self.spec.raw))
            journal = stack.enter_context(Journal(self.journals, self.place.copy)) if self.place.writes else None
            batches = [[self.inputs[index] for index in self.batches[number]] for number in numbers]
            for place, answers in self.answerer.answer(batches, self.asking, pictures):
                if journal is not None:
                    journal.append(numbers[place], answers)
                done += len(answers)
                progress.update(done)

    def _merge(self, generated: int, elapsed_s: float) -> None:
        """Write the predictions in the dataset's order."""
        found = finished_batches(self.journals, self._sizes())
        missing = [number for number in range(len(self.batches)) if number not in found]
        if missing:
            raise StageError(f"{len(missing)} of {len(self.batches)} batches have no answers in {self.journals}.")
        answers = {
            self.inputs[index]: answer
            for number, members in enumerate(self.batches)
            for index, answer in zip(members, found[number], strict=True)
        }
        texts = {key: self.spec.task.clean(answer.text) for key, answer in answers.items()}
        rows = [(request, texts[self._input_of(request)]) for request in self.requests]
        _write_rows(self.spec, rows)
        facts = {
            "answers": len(answers),
            "answers_done_before": len(answers) - generated,
            "answer_tokens": sum(answer.tokens for answer in answers.values()),
            "prompt_tokens": sum(answer.prompt_tokens for answer in answers.values()),
            "answers_per_s": round(generated / max(elapsed_s, 1e-9), 2),
            "empties": sum(not text for request, text in rows if request.control == "none"),
            **self.answerer.facts(),
        }
        write_json(self.spec.output / FACTS_FILE, facts)

    def _sizes(self) -> list[int]:
        return [len(members) for members in self.batches]

    def _input_of(self, request: Request) -> ModelInput:
        return request.model_input(drawn=not self.spec.config.sampling.greedy)


def _wait_for_all(place: Place) -> None:
    if place.processes > 1:
        import torch.distributed

        torch.distributed.barrier()


def _write_rows(spec: GenerationSpec, rows: Sequence[tuple[Request, str]]) -> None:
    with open_atomic(spec.output / PREDICTIONS_FILE, "w") as stream:
        for request, text in rows:
            row: dict[str, Any] = {
                "id": request.sample.id,
                "control": request.control,
                "image": request.pictures[0],
                "prompt": request.sample.prompt,
                "text": text,
                "generation": spec.generation,
            }
            if len(request.pictures) > 1:
                row["images"] = request.pictures
            if request.sample.category:
                row["category"] = request.sample.category
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
