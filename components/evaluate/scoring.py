"""From what a kind of task found to published numbers: points, 95 % intervals, differences, groups."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.evaluate.config import EvaluateConfig
from components.evaluate.scores import CategoryScore, Measure
from components.metrics.intervals import Floats, Resamples, percentile_interval, wilson_interval
from components.metrics.statistic import Statistic
from components.tasks.kind import CHANCE, MODEL, Examination, Findings, in_points
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
        return publish(config, task, find_kind(task.kind).examine(examination))


def publish(config: EvaluateConfig, task: Task, findings: Findings) -> Scored:
    """Turn what was found into points with 95 % intervals, all of it by the metrics' own arithmetic.

    Args:
        config: The stage's settings.
        task: The task.
        findings: What its kind found.
    """
    # Drawn once for every number of units: differences between what has the same units are paired.
    drawn: dict[int, Resamples] = {}
    measures: dict[str, dict[str, Measure]] = {}
    headline_draws = {}
    for control, found in findings.statistics.items():
        measures[control] = {}
        for name, statistic in found.items():
            size = len(statistic.units)
            if size not in drawn:
                drawn[size] = Resamples.draw(size, config.bootstrap_samples, config.seed)
            draws = statistic.resampled(drawn[size])
            measures[control][name] = (
                Measure(value=in_points(statistic.value())) if control == CHANCE else _measure(statistic, draws)
            )
            if name == task.headline:
                headline_draws[control] = draws
    metrics = measures.pop(MODEL)
    own = findings.statistics[MODEL][task.headline]
    differences = {
        control: _resampled(
            own,
            own.value() - findings.statistics[control][task.headline].value(),
            headline_draws[MODEL] - headline_draws[control],
        )
        for control in measures
    }
    return Scored(metrics, measures, differences, _categories(findings, task.headline, config), findings)


def _categories(findings: Findings, headline: str, config: EvaluateConfig) -> dict[str, CategoryScore]:
    """Score every group; one whose name another level has, too, is told apart by its level."""
    whole = findings.statistics[MODEL][headline]
    scored: dict[str, CategoryScore] = {}
    for level, names in findings.groups.items():
        for name in sorted(set(names) - {""}):
            statistic = whole.chosen(np.array([other == name for other in names]))
            draws = statistic.resampled(Resamples.draw(len(statistic.units), config.bootstrap_samples, config.seed))
            scored[f"{level}: {name}" if name in scored else name] = CategoryScore(
                n=len(statistic.parts), level=level, **_measure(statistic, draws).model_dump()
            )
    return scored


def _measure(statistic: Statistic, draws: Floats) -> Measure:
    """Return a value with its interval, where there is one: Wilson's for a share of right ones, else the bootstrap's."""
    if not statistic.is_share:
        return _resampled(statistic, statistic.value(), draws)
    right, total = int(statistic.units[:, 0].sum()), len(statistic.units)
    low, high = wilson_interval(right, total)
    return Measure(value=in_points(statistic.value()), low=in_points(low), high=in_points(high))


def _resampled(statistic: Statistic, value: float, draws: Floats) -> Measure:
    """Return a value with the bootstrap's interval, where the statistic's units are enough for one."""
    if not statistic.has_interval:
        return Measure(value=in_points(value))
    low, high = percentile_interval(draws)
    return Measure(value=in_points(value), low=in_points(low), high=in_points(high))
