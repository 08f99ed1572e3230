"""From what a kind of task found to published numbers: points, 95 % intervals, differences, groups."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.evaluate.config import EvaluateConfig
from components.evaluate.scores import CategoryScore, Measure
from components.metrics.intervals import (
    Floats,
    Resamples,
    Statistic,
    mean_statistic,
    percentile_interval,
    wilson_interval,
)
from components.tasks.kind import CHANCE, MODEL, POINTS, Examination, Findings, Metric
from components.tasks.registry import find_kind
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task


@dataclass(frozen=True)
class Scored:
    """Numbers for `scores.json`; see `components.evaluate.scores.Scores`."""

    metrics: dict[str, Measure]
    controls: dict[str, dict[str, Measure]]
    differences: dict[str, Measure]
    categories: dict[str, CategoryScore]
    findings: Findings


def score(
    config: EvaluateConfig, task: Task, samples: Sequence[HeldOutSample], texts: Mapping[str, Sequence[str]], raw: Path
) -> Scored:
    """Score predictions.

    Args:
        config: The stage's settings.
        task: The task.
        samples: Ground truth.
        texts: "none" and every generated control to the predictions, in the samples' order.
        raw: Raw dataset folder.
    """
    with ExitStack() as resources:
        examination = Examination(
            task,
            samples,
            texts,
            raw,
            seed=config.seed,
            constant_candidates=config.constant_candidates,
            resources=resources,
        )
        return _published(config, task, find_kind(task.kind).examine(examination), len(samples))


def _published(config: EvaluateConfig, task: Task, findings: Findings, size: int) -> Scored:
    kind = find_kind(task.kind)
    resamples = Resamples.draw(size, config.bootstrap_samples, config.seed)
    measures: dict[str, dict[str, Measure]] = {}
    headline_draws = {}
    for control, found in findings.statistics.items():
        measures[control] = {}
        for name, statistic in found.items():
            draws = statistic.resampled(resamples)
            measures[control][name] = (
                Measure(value=_point(statistic.value()))
                if control == CHANCE
                else _measure(statistic, draws, kind.metrics[name])
            )
            if name == task.headline:
                headline_draws[control] = draws
    metrics = measures.pop(MODEL)
    own = findings.statistics[MODEL][task.headline].value()
    differences = {
        control: _with_interval(
            own - findings.statistics[control][task.headline].value(), headline_draws[MODEL] - headline_draws[control]
        )
        for control in measures
    }
    return Scored(metrics, measures, differences, _categories(findings, kind.metrics[task.headline], config), findings)


def _categories(findings: Findings, metric: Metric, config: EvaluateConfig) -> dict[str, CategoryScore]:
    """Score every group; one whose name another level has, too, is told apart by its level."""
    scored: dict[str, CategoryScore] = {}
    for level, names in findings.groups.items():
        for name in sorted(set(names) - {""}):
            statistic = mean_statistic(findings.marks[np.array([other == name for other in names])])
            size = len(statistic.parts)
            draws = statistic.resampled(Resamples.draw(size, config.bootstrap_samples, config.seed))
            measure = _measure(statistic, draws, metric)
            scored[f"{level}: {name}" if name in scored else name] = CategoryScore(
                n=size, level=level, **measure.model_dump()
            )
    return scored


def _measure(statistic: Statistic, draws: Floats, metric: Metric) -> Measure:
    """Return a value with its interval: Wilson's for a share of right samples, else the bootstrap's."""
    if not metric.proportion:
        return _with_interval(statistic.value(), draws)
    right, total = int(statistic.parts[:, 0].sum()), len(statistic.parts)
    low, high = wilson_interval(right, total)
    return Measure(value=_point(right / total), low=_point(low), high=_point(high))


def _with_interval(value: float, draws: Floats) -> Measure:
    low, high = percentile_interval(draws)
    return Measure(value=_point(value), low=_point(low), high=_point(high))


def _point(value: float) -> float:
    """Return points, rounded to what is worth storing."""
    return round(POINTS * float(value), 4)
