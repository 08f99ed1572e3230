"""Every sample's own scores: what it takes to compare two models pair by pair.

`sample_scores.jsonl` holds one object per sample, in the order of the ground truth. Under `scores`, a metric that is a
mean over the samples has the sample's value; any other has the numbers whose sums over the samples give the metric
(the n-gram counts of BLEU, the matching counts of METEOR), so that every subset and resample can be scored.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import StageError
from components.metrics.captioning import bleu_metric
from components.metrics.intervals import Statistic, mean_statistic
from components.metrics.meteor import meteor_metric
from components.storage.atomic import open_atomic
from components.tasks.sample import HeldOutSample
from components.tasks.template import lettered

SAMPLE_SCORES_FILE = "sample_scores.jsonl"

_METEOR = "meteor"
_BLEU = "bleu"


class SampleScore(BaseModel):
    """One sample: what was asked and answered, and what the answer adds to every metric.

    Attributes:
        id: The sample's id.
        image: Name of its picture in the raw dataset.
        category: Its group; empty for none.
        prompt: The human turn; empty where the picture alone was shown.
        truth: The true captions, or the true answer.
        text: The prediction.
        scores: Metric to the sample's value, or to its parts; "bleu" stands for BLEU of every order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    image: str
    category: str = ""
    prompt: str = ""
    truth: tuple[str, ...] = ()
    text: str
    scores: dict[str, float | list[float]]


@dataclass(frozen=True)
class SampleScores:
    """All samples of one evaluation, in the order of the ground truth."""

    rows: tuple[SampleScore, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the samples."""
        return tuple(row.id for row in self.rows)

    def has(self, metric: str) -> bool:
        """Tell whether the samples' scores allow to compute a metric."""
        return bool(self.rows) and _family(metric) in self.rows[0].scores

    def statistic(self, metric: str) -> Statistic:
        """Return a metric as a function of the samples.

        Raises:
            KeyError: The metric was not computed; see `has`.
        """
        parts = np.array([row.scores[_family(metric)] for row in self.rows], dtype=np.float64)
        if metric.startswith(f"{_BLEU}_"):
            return Statistic(parts, bleu_metric(int(metric.removeprefix(f"{_BLEU}_"))))
        return Statistic(parts, meteor_metric) if metric == _METEOR else mean_statistic(parts)


def is_mean(metric: str) -> bool:
    """Tell whether a metric is the mean of its samples' values."""
    return metric != _METEOR and not metric.startswith(f"{_BLEU}_")


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
    # BLEU of every order is made of the same parts.
    families = {_family(metric): (is_mean(metric), statistic.parts) for metric, statistic in statistics.items()}
    with open_atomic(folder / SAMPLE_SCORES_FILE, "w") as stream:
        for row, (sample, text) in enumerate(zip(samples, texts, strict=True)):
            score = SampleScore(
                id=sample.id,
                image=sample.image,
                category=sample.category,
                prompt=sample.prompt,
                truth=_truth(sample),
                text=text,
                scores={
                    name: float(parts[row, 0]) if mean else parts[row].tolist()
                    for name, (mean, parts) in families.items()
                },
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
            return SampleScores(tuple(SampleScore.model_validate(json.loads(line)) for line in stream))
    except (OSError, ValueError, ValidationError) as error:
        raise StageError(f"{path} does not hold the samples' scores: {error}. Run the evaluation again.") from error


def _family(metric: str) -> str:
    return _BLEU if metric.startswith(f"{_BLEU}_") else metric


def _truth(sample: HeldOutSample) -> tuple[str, ...]:
    if sample.references:
        return sample.references
    letters = dict(lettered(sample.options))
    return (f"({sample.answer}) {letters[sample.answer]}",) if sample.answer in letters else (sample.answer,)
