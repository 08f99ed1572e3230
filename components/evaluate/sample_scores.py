"""Every sample's own scores: what it takes to compare two models pair by pair.

`sample_scores.jsonl` holds one object per sample, in the order of the ground truth. Under `statistics` stands, for each
metric with its version, what the sample adds to it: the numbers whose sums over any samples the metric's `combine` turns
into its value, so that every subset and resample can be scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import StageError, first_problem
from components.metrics.registry import find_metric
from components.metrics.statistic import Statistic
from components.storage.atomic import open_atomic
from components.tasks.sample import HeldOutSample
from components.tasks.template import lettered

SAMPLE_SCORES_FILE = "sample_scores.jsonl"


class SampleScore(BaseModel):
    """One sample: what was asked and answered, and what the answer adds to every metric.

    Attributes:
        id: The sample's id.
        image: Name of its picture in the raw dataset.
        category: Its group; empty for none.
        prompt: The human turn; empty where the picture alone was shown.
        truth: The true captions, or the true answer.
        text: The prediction.
        statistics: "METRIC@VERSION" to what the sample adds to the metric.
        units: "METRIC@VERSION" to the group of samples that is resampled as one, for metrics that count groups.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    image: str
    category: str = ""
    prompt: str = ""
    truth: tuple[str, ...] = ()
    text: str
    statistics: dict[str, tuple[float, ...]]
    units: dict[str, str] = {}


@dataclass(frozen=True)
class SampleScores:
    """All samples of one evaluation, in the order of the ground truth."""

    rows: tuple[SampleScore, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the samples."""
        return tuple(row.id for row in self.rows)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the stored metrics."""
        return tuple(self._versions)

    def problem(self, metric: str) -> str:
        """Return why a metric can't be computed from what is stored; empty where it can."""
        if metric not in self._versions:
            return f"{metric} is not stored for its samples"
        try:
            known = find_metric(metric)
        except ValueError as error:
            return str(error)
        stored = self._versions[metric]
        if stored != str(known.version):
            return f"its {metric} is of version {stored} of the metric, this code has version {known.version}: evaluate it again"
        return ""

    def statistic(self, metric: str) -> Statistic:
        """Return what the samples add to a metric.

        Raises:
            StageError: It can't be computed; see `problem`.
        """
        problem = self.problem(metric)
        if problem:
            raise StageError(problem)
        known = find_metric(metric)
        groups = [row.units[known.key] for row in self.rows if known.key in row.units]
        try:
            return Statistic.of(known, [row.statistics[known.key] for row in self.rows], groups or None)
        except (KeyError, ValueError) as error:
            raise StageError(f"the samples' {metric} is incomplete ({error}): evaluate it again") from error

    @property
    def _versions(self) -> dict[str, str]:
        stored = self.rows[0].statistics if self.rows else {}
        return {name: version for name, _, version in (key.rpartition("@") for key in stored)}


def write_sample_scores(
    folder: Path, samples: Sequence[HeldOutSample], texts: Sequence[str], statistics: Mapping[str, Statistic]
) -> None:
    """Write `sample_scores.jsonl` atomically.

    Args:
        folder: The evaluation's folder.
        samples: Ground truth.
        texts: The model's predictions, in the samples' order.
        statistics: Metric to the model's statistic.
    """
    stored = {statistic.metric.key: statistic.parts.tolist() for statistic in statistics.values()}
    grouped = {item.metric.key: item.groups for item in statistics.values() if item.groups is not None}
    with open_atomic(folder / SAMPLE_SCORES_FILE, "w") as stream:
        for row, (sample, text) in enumerate(zip(samples, texts, strict=True)):
            score = SampleScore(
                id=sample.id,
                image=sample.image,
                category=sample.category,
                prompt=sample.prompt,
                truth=_truth(sample),
                text=text,
                statistics={key: parts[row] for key, parts in stored.items()},
                units={key: names[row] for key, names in grouped.items()},
            )
            stream.write(score.model_dump_json() + "\n")


def read_sample_scores(folder: Path) -> SampleScores:
    """Read the samples of a finished evaluation.

    Raises:
        StageError: The file is missing or of another layout.
    """
    path = folder / SAMPLE_SCORES_FILE
    try:
        with open(path, encoding="utf-8") as stream:
            return SampleScores(tuple(SampleScore.model_validate_json(line) for line in stream))
    except ValidationError as error:
        raise StageError(
            f"{path} does not hold the samples' scores as this version writes them ({first_problem(error)}). "
            "Run the evaluation again."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{path} does not hold the samples' scores: {error}. Run the evaluation again.") from error


def _truth(sample: HeldOutSample) -> tuple[str, ...]:
    if sample.references:
        return sample.references
    letters = dict(lettered(sample.options))
    return (f"({sample.answer}) {letters[sample.answer]}",) if sample.answer in letters else (sample.answer,)
