"""The comparison in a terminal."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from components.compare.comparison import Comparison, TaskComparison, is_significant
from components.pages.formats import interval, p_value, points

_MOST_SETTINGS = 30
_STYLES = {1: "green", 0: "bold", -1: "red"}


def tables(comparison: Comparison) -> Iterator[RenderableType]:
    """Yield what differs: what is missing, settings, and a table for each evaluation."""
    for label, run in zip(comparison.labels, comparison.runs, strict=True):
        for text in run.missing:
            yield Text(f"{label}: {text}", "yellow")
    if comparison.settings:
        table = _table(f"settings that differ ({comparison.equal_settings} are the same)", "setting")
        for label in comparison.labels:
            table.add_column(Text(label), overflow="fold")
        for key, values in list(comparison.settings.items())[:_MOST_SETTINGS]:
            table.add_row(Text(key), *(Text(value) for value in values))
        yield table
        if len(comparison.settings) > _MOST_SETTINGS:
            yield Text(f"and {len(comparison.settings) - _MOST_SETTINGS} more: see the page", "dim")
    for task in comparison.tasks:
        yield _scores(comparison, task)
        for number, pair in task.pairs.items():
            reference, other = comparison.labels[task.reference], comparison.labels[number]
            if pair.problem:
                yield Text(f"{other} and {reference} can't be compared: {pair.problem}", "yellow")
            for name, reason in pair.refused.items():
                yield Text(f"{name} of {other} and {reference} can't be compared: {reason}", "yellow")


def _scores(comparison: Comparison, task: TaskComparison) -> Table:
    """Return values with intervals, and every run minus the reference."""
    scores = task.evaluations[task.reference].scores
    table = _table(f"{task.name}: values and differences in points, with 95 % intervals", "metric")
    for number, item in task.evaluations.items():
        mark = " (PARTIAL)" if item.scores.partial else ""
        table.add_column(Text(f"{comparison.labels[number]}{mark}"), justify="right")
    for number, pair in task.pairs.items():
        if pair.tests:
            table.add_column(
                Text(f"{comparison.labels[number]} − {comparison.labels[task.reference]}"), justify="right"
            )
    for name in scores.metrics:
        cells = []
        for item in task.evaluations.values():
            measure = item.scores.metrics.get(name)
            cells.append(Text(f"{points(measure.value)}\n{interval(measure)}" if measure else ""))
        for pair in task.pairs.values():
            if pair.tests:
                test = pair.tests.get(name)
                style = (
                    "" if test is None or not is_significant(test) else _STYLES[scores.sign(name) * _sign(test.value)]
                )
                text = (
                    f"{points(test.value, sign=True)}  {p_value(test.p_value)}\n{interval(test, sign=True)}"
                    if test
                    else ""
                )
                cells.append(Text(text, style))
        table.add_row(scores.label(name), *cells, style="bold" if name == scores.headline else "")
    return table


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first, overflow="fold")
    return table
