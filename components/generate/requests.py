"""What has to be generated for a partition of a task: every sample under every control, each distinct input once."""

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from components.generate.config import Control
from components.generate.controls import other_pictures
from components.tasks.sample import HeldOutSample

BLANK = ""


class ModelInput(NamedTuple):
    """What decides an answer.

    Attributes:
        pictures: Names of the pictures that are shown; `BLANK` for the grey one.
        prompt: The human turn.
        draws: Id of the sample whose draws are used; empty where nothing is drawn.
    """

    pictures: tuple[str, ...]
    prompt: str
    draws: str


@dataclass(frozen=True)
class Request:
    """One prediction that is due.

    Attributes:
        sample: The sample that is asked about.
        control: What is shown.
        pictures: Names of the pictures that are shown; `BLANK` for the grey one.
    """

    sample: HeldOutSample
    control: Control
    pictures: tuple[str, ...]

    def model_input(self, *, drawn: bool) -> ModelInput:
        """Return what decides the answer: requests with equal inputs share it.

        Args:
            drawn: Tokens are drawn, so that samples answer differently to the same pictures and prompt.
        """
        return ModelInput(self.pictures, self.sample.prompt, self.sample.id if drawn else "")


def requests_of_partition(
    samples: Sequence[HeldOutSample], controls: Sequence[Control], *, partition: int, partitions: int, seed: int
) -> list[Request]:
    """Return the requests of one partition: rows with `row % partitions == partition`, so that no tail is lost.

    Args:
        samples: The whole set.
        controls: What is shown; the shuffled pictures are drawn over the whole set, whatever the partitions.
        partition: Number of the partition, from 0.
        partitions: Number of partitions.
        seed: Of the shuffled pictures.
    """
    own = [sample.pictures for sample in samples]
    shown: dict[Control, list[tuple[str, ...]]] = {"none": own, "blank": [(BLANK,) * len(names) for names in own]}
    if "shuffled" in controls:
        others = other_pictures([sample.image for sample in samples], seed)
        shown["shuffled"] = _shuffled(samples, others)
    rows = range(partition, len(samples), partitions)
    return [Request(samples[row], control, shown[control][row]) for control in controls for row in rows]


def _shuffled(samples: Sequence[HeldOutSample], others: Sequence[str]) -> list[tuple[str, ...]]:
    """Give every sample as many pictures as it has, those of the sample that another first picture belongs to, in turn."""
    of_first = {sample.image: sample.pictures for sample in reversed(samples)}
    return [
        tuple(itertools.islice(itertools.cycle(of_first[other]), len(sample.pictures)))
        for sample, other in zip(samples, others, strict=True)
    ]


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Divide inputs into batches of about equally long prompts, so that little is padded.

    The longest come first: if memory does not suffice, that shows at once. The result depends on the arguments alone, so
    that a generation that goes on has the same batches.

    Args:
        lengths: Tokens of every input.
        batch_size: Inputs of a batch.

    Returns:
        Indices of the inputs of every batch; equally long ones stay in order.
    """
    ordered = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [ordered[first : first + batch_size] for first in range(0, len(ordered), batch_size)]


def batches_by_picture(lengths: Sequence[int], pictures: Sequence[Hashable], batch_size: int) -> list[list[int]]:
    """Divide inputs into batches in which those about one picture stand together, pictures of about equally long prompts next.

    Where each picture is asked about once, that is `batches_by_length`. Where it is asked about often, prompts of a batch share its
    encoding and what they begin with alike, which saves more than padding costs: most of a prompt is its picture.

    Args:
        lengths: Tokens of every input.
        pictures: Picture of every input, or its pictures.
        batch_size: Inputs of a batch.

    Returns:
        Indices of the inputs of every batch; the picture with the longest prompt comes first.
    """
    longest: dict[Hashable, int] = {}
    first: dict[Hashable, int] = {}
    for index, (length, picture) in enumerate(zip(lengths, pictures, strict=True)):
        longest[picture] = max(longest.get(picture, 0), length)
        first.setdefault(picture, index)
    ordered = sorted(
        range(len(lengths)),
        key=lambda index: (-longest[pictures[index]], first[pictures[index]], -lengths[index]),
    )
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
