"""What answers: the interface between a generation and a model of any kind.

A kind of model is one file in `answerers/` and one row in `registry.py`. Partitions, journal, controls and coverage are the
generation's own, and the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from components.data.prompt_text import PromptFormat
from components.generate.config import CallsConfig, GenerateConfig
from components.generate.requests import ModelInput
from components.model.sampling_settings import Sampling
from components.tasks.task import Task

if TYPE_CHECKING:
    from components.data.pictures import Pictures

_Prepared = TypeVar("_Prepared")


class Answer(NamedTuple):
    """An answer, as the journal keeps it.

    Attributes:
        text: What was said, before the task's post-processing.
        tokens: Tokens of the answer, as its model counts them.
        prompt_tokens: Tokens that the model read, the picture's included; 0 where they are not known.
    """

    text: str
    tokens: int
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that answer a partition together.

    Attributes:
        rank: Number of the process.
        processes: How many there are.
        copy: Number of the copy of the model that it belongs to.
        copies: How many copies share the work.
        writes: Whether it writes the answers of its copy down.
    """

    rank: int = 0
    processes: int = 1
    copy: int = 0
    copies: int = 1
    writes: bool = True


@dataclass(frozen=True)
class Asking:
    """How all questions of a task are asked.

    Attributes:
        prompt_format: "plain" (the picture alone) or "instruct" (a turn of a conversation).
        max_new_tokens: Most tokens of an answer.
        batch_size: Questions that a model of this machine answers together.
        sampling: How tokens are chosen.
        calls: How an endpoint is called.
    """

    prompt_format: PromptFormat
    max_new_tokens: int
    batch_size: int
    sampling: Sampling
    calls: CallsConfig

    @staticmethod
    def of(config: GenerateConfig, task: Task) -> "Asking":
        """Return how a task is asked under a generation's settings."""
        return Asking(
            prompt_format=task.prompt.format,
            max_new_tokens=config.max_new_tokens or task.max_new_tokens,
            batch_size=config.batch_size,
            sampling=config.sampling,
            calls=config.calls,
        )


class Answerer(ABC):
    """A model that is ready to answer; it may be asked about several tasks, one after the other.

    Attributes:
        place: Where this process stands.
    """

    place: Place = Place()

    @abstractmethod
    def batches(self, inputs: Sequence[ModelInput], asking: Asking) -> list[list[int]]:
        """Divide inputs into what is answered, and written down, together.

        The result depends on the arguments alone, so that a generation that goes on has the same batches.

        Returns:
            Indices of the inputs of every batch, the first batch to be answered first.
        """

    @abstractmethod
    def answer(
        self, batches: Sequence[Sequence[ModelInput]], asking: Asking, pictures: "Pictures"
    ) -> Iterator[tuple[int, list[Answer]]]:
        """Answer batches.

        Yields:
            Number of a batch and its answers, as soon as they are there; the order is free.

        Raises:
            InputError: A picture can't be read, or a question not be asked.
            StageError: No answer can be had.
        """

    def facts(self) -> dict[str, Any]:
        """Return what is worth knowing of how it answered, for the manifest."""
        return {}


def read_ahead(
    batches: Sequence[Sequence[ModelInput]],
    prepare: Callable[[Sequence[ModelInput]], _Prepared],
    answer: Callable[[_Prepared], list[Answer]],
) -> Iterator[tuple[int, list[Answer]]]:
    """Answer batches one after the other, while a thread prepares the next.

    Args:
        batches: The batches.
        prepare: Reads pictures and prompts of a batch; called in another thread, for one batch at a time.
        answer: Answers what was prepared.

    Yields:
        Number of a batch and its answers, in order.
    """
    with ThreadPoolExecutor(max_workers=1) as reader:
        upcoming = [reader.submit(prepare, batch) for batch in batches[:1]]
        for number, following in enumerate(zip_longest(batches, batches[1:])):
            prepared = upcoming.pop().result()
            if following[1] is not None:
                upcoming.append(reader.submit(prepare, following[1]))
            yield number, answer(prepared)
