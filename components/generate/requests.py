"""What has to be generated for a partition of a task: every sample under every control, each distinct input once."""

from collections.abc import Sequence
from dataclasses import dataclass

from components.generate.config import Control
from components.generate.controls import other_pictures
from components.generate.dataset import HeldOutSample

BLANK = ""


@dataclass(frozen=True)
class Request:
    """One prediction that is due.

    Attributes:
        sample: The sample that is asked about.
        control: What is shown.
        picture: Path of the picture that is shown; `BLANK` for the grey one.
    """

    sample: HeldOutSample
    control: Control
    picture: str

    @property
    def model_input(self) -> tuple[str, str]:
        """What the model gets to see: picture and prompt. Equal inputs have equal greedy answers."""
        return self.picture, self.sample.prompt


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
    own = [sample.image for sample in samples]
    shown: dict[Control, list[str]] = {"none": own, "blank": [BLANK] * len(own)}
    if "shuffled" in controls:
        shown["shuffled"] = other_pictures(own, seed)
    rows = range(partition, len(samples), partitions)
    return [Request(samples[row], control, shown[control][row]) for control in controls for row in rows]
