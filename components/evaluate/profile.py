"""Scores of several benchmarks as one chart: a line for each, models and known figures beside each other."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from components.evaluate.paper import columns_of, names_of, tasks_of
from components.evaluate.scores import Measure, Scores
from components.metrics.registry import find_metric
from components.pages.charts import MODEL_COLOURS, Dot, Figure, ProfileRow, model_style, profile_chart, ticks
from components.pages.formats import points

_FEWEST = 3  # a chart of fewer shows less than the table
_BEST_CONTROL = "best control"

Models = Mapping[str, Mapping[str, Scores]]


def profile(models: Models) -> list[Figure]:
    """Draw the scores of one or several models over all benchmarks.

    Args:
        models: A model's name to the names of its evaluations and their scores.

    Returns:
        One figure: models filled, known models as published hollow (those with most figures, as far as colours last), and where
        there is one model its best control in grey. None where there are fewer than three lines.
    """
    tasks = tasks_of(models)
    known = _known(tasks.values(), max(0, MODEL_COLOURS - len(models)))
    styles = {name: model_style(number) for number, name in enumerate(models)}
    hollow = {name: f"{model_style(number)} control" for number, name in enumerate(known, start=len(models))}
    names, rows = names_of(tasks), []
    for task, scores in tasks.items():
        for metric in columns_of(scores):
            own = [Dot(found, styles[name], name) for name, found in _measured(models, task, metric).items()]
            if not own:
                continue
            beside = [
                Dot(Measure(value=one.value), hollow[one.model], one.model)
                for one in scores.presentation.published
                if one.metric == metric and one.model in hollow and not one.note
            ]
            control = _best_control(scores, metric) if len(models) == 1 else []
            dots = [*control, *beside, *own]
            end = _end(metric, dots)
            label = names[task] if len(columns_of(scores)) == 1 else f"{names[task]}, {scores.label(metric)}"
            value = points(own[0].estimate.value) if len(models) == 1 else ""
            rows.append(ProfileRow(label, end, f"{value} of {end:,.0f}".strip(), dots))
    if len(rows) < _FEWEST:
        return []
    shown = {dot.label: dot.style for row in rows for dot in row.dots}
    legend = [
        (shown[name], f"{name}, as published" if name in hollow else name)
        for name in (*models, *known, _BEST_CONTROL)
        if name in shown
    ]
    return [Figure("All benchmarks, each over its own scale", profile_chart("Scores of all benchmarks", rows), legend)]


def _known(scores: Iterable[Scores], most: int) -> list[str]:
    """Return the known models with most figures, in the order of the tasks."""
    counts = Counter(one.model for found in scores for one in found.presentation.published if not one.note)
    kept = {name for name, _ in counts.most_common(most)}
    return [name for name in counts if name in kept]


def _measured(models: Models, task: str, metric: str) -> dict[str, Measure]:
    return {
        name: scored[task].metrics[metric]
        for name, scored in models.items()
        if task in scored and metric in scored[task].metrics
    }


def _best_control(scores: Scores, metric: str) -> list[Dot]:
    values = [control[metric] for control in scores.controls.values() if metric in control]
    if not values:
        return []
    best = max(values, key=lambda measure: scores.sign(metric) * measure.value)
    return [Dot(Measure(value=best.value), "grey control", _BEST_CONTROL)]


def _end(metric: str, dots: Sequence[Dot]) -> float:
    """Return where a line's axis ends: at the metric's full scale, or beyond all dots."""
    try:
        full = find_metric(metric).full_scale
    except ValueError:  # of a package that is not installed here
        full = None
    highest = max(dot.estimate.value if dot.estimate.high is None else dot.estimate.high for dot in dots)
    return full if full and full >= highest else ticks(0.0, max(1.0, highest))[-1]
