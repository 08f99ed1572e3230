"""The comparison as one HTML page that needs nothing else: no file, no network, no script."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.compare.comparison import Comparison, Disagreement, TaskComparison, is_significant
from components.compare.runs import ComparedRun
from components.data.pictures import Pictures
from components.errors import InputError
from components.evaluate.page import LABELS
from components.evaluate.page import TEMPLATES as EVALUATION_TEMPLATES
from components.evaluate.paper import PaperTable, paper_table
from components.evaluate.profile import profile
from components.evaluate.scores import Measure, Scores
from components.metrics.registry import find_metric
from components.pages.charts import Dot, DotRow, Figure, Series, dot_chart, line_chart, model_style, smoothed
from components.pages.formats import duration, interval, moment, p_value, points, quantity
from components.pages.page import render_page
from components.pages.pictures import data_uri, thumbnail
from components.training.curves import TITLES

_TEMPLATE = Path(__file__).parent / "templates" / "comparison.html.j2"
_SPEEDS = {
    "median_samples_per_s": "Samples per second",
    "median_tokens_per_s": "Tokens per second",
    "final_loss": "Training loss at the end",
    "final_validation_loss": "Validation loss at the end",
}


@dataclass(frozen=True)
class RunView:
    """A run's place on the page: `style` is its colour's class."""

    label: str
    style: str
    facts: list[tuple[str, str]]
    missing: Sequence[str]


@dataclass(frozen=True)
class Verdict:
    """How a run compares with the reference; `tone` is the badge's class."""

    run: RunView
    reference: str
    text: str
    badge: str
    tone: str


@dataclass(frozen=True)
class ScoreRow:
    """A row of the table of scores: for each metric its value and the lines below it."""

    run: RunView
    label: str
    cells: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class AnswerView:
    """What one run answered; `tone` is empty where there is no right and wrong."""

    run: RunView
    text: str
    value: str
    tone: str


@dataclass(frozen=True)
class Card:
    """A sample with the runs' answers; `category` and `better` are numbers that the filters know."""

    sample: Disagreement
    picture: str
    answers: list[AnswerView]
    category: int
    better: int


@dataclass(frozen=True)
class TaskView:
    """An evaluation."""

    anchor: str
    title: str
    metric: str
    figures: list[Figure]
    verdicts: list[Verdict]
    metrics: list[str]
    rows: list[ScoreRow]
    cards: list[Card]
    cards_lead: str
    filter_categories: list[str]
    filter_runs: list[RunView]
    no_pictures: str
    notes: list[str]


@dataclass(frozen=True)
class CurvesView:
    """A training stage's curves."""

    title: str
    figures: list[Figure]


@dataclass(frozen=True)
class ComparisonView:
    """What the template shows; see `templates/comparison.html.j2`."""

    title: str
    runs: list[RunView]
    summary: list[tuple[str, str, str, str]]
    tasks: list[TaskView]
    paper: PaperTable
    profile: list[Figure]
    curves: list[CurvesView]
    speeds: list[tuple[str, list[str]]]
    times: list[tuple[str, list[str], bool]]
    settings: list[tuple[str, list[str]]]
    equal_settings: int


def render_comparison(comparison: Comparison) -> str:
    """Return the page."""
    runs = [
        RunView(label, model_style(number), _run_facts(run), run.missing)
        for number, (label, run) in enumerate(zip(comparison.labels, comparison.runs, strict=True))
    ]
    scored = _scores_of_runs(comparison)
    tasks = [_task(number, task, runs) for number, task in enumerate(comparison.tasks)]
    view = ComparisonView(
        title=_title(comparison.labels),
        runs=runs,
        summary=[_summary(view, task, runs) for view, task in zip(tasks, comparison.tasks, strict=True)],
        tasks=tasks,
        paper=paper_table(scored),
        profile=profile(scored),
        curves=_curves(comparison.runs, runs),
        speeds=_speeds(comparison.runs),
        times=_times(comparison.runs),
        settings=[(key, list(values)) for key, values in comparison.settings.items()],
        equal_settings=comparison.equal_settings,
    )
    return render_page(_TEMPLATE, view, parts=[EVALUATION_TEMPLATES])


def _scores_of_runs(comparison: Comparison) -> dict[str, dict[str, Scores]]:
    return {
        label: {task.name: task.evaluations[number].scores for task in comparison.tasks if number in task.evaluations}
        for number, label in enumerate(comparison.labels)
    }


def _title(labels: Sequence[str]) -> str:
    return f"{', '.join(labels[:-1])} and {labels[-1]}"


def _run_facts(run: ComparedRun) -> list[tuple[str, str]]:
    facts = [
        ("Started", moment(run.started) if run.started else ""),
        ("Commit", run.git_commit[:12]),
        ("Run", run.run_id),
        ("MLflow run", run.mlflow_run_id),
    ]
    return [(name, value) for name, value in facts if value]


def _summary(view: TaskView, task: TaskComparison, runs: Sequence[RunView]) -> tuple[str, str, str, str]:
    """Return anchor, title, headline and the line below it for one evaluation."""
    headline = task.evaluations[task.reference].scores.headline
    values = [
        points(item.scores.metrics[headline].value)
        for item in task.evaluations.values()
        if headline in item.scores.metrics
    ]
    beside = (
        view.verdicts[0].badge
        if len(view.verdicts) == 1
        else " · ".join(f"{verdict.run.label}: {verdict.badge}" for verdict in view.verdicts)
    )
    if not view.verdicts:
        beside = f"{runs[task.reference].label} alone has it"
    return view.anchor, view.title, f"{view.metric} {' → '.join(values)}", beside


def _task(number: int, task: TaskComparison, runs: Sequence[RunView]) -> TaskView:
    scores = task.evaluations[task.reference].scores
    headline = scores.headline
    cards = _cards(task, runs)
    categories = sorted({card.sample.category for card in cards} - {""})
    better = sorted({card.better for card in cards} - {-1})
    metrics = list(scores.metrics)
    figures = [
        Figure(
            f"{_label(task, headline)} in points, with 95 % intervals",
            dot_chart(f"{task.name}: {_label(task, headline)}", _score_rows(task, headline, runs)),
            [(run.style, run.label) for run in runs],
        ),
        Figure("By category", dot_chart(f"{task.name} by category", _category_rows(task, runs))),
    ]
    return TaskView(
        anchor=f"task-{number}",
        title=task.name.replace("_", " ").capitalize(),
        metric=_label(task, headline),
        figures=[figure for figure in figures if figure.chart],
        verdicts=[_verdict(task, other, headline, runs) for other in task.pairs],
        metrics=[_label(task, name) for name in metrics],
        rows=_table(task, metrics, runs),
        cards=cards,
        cards_lead=_cards_lead(task, len(cards)),
        filter_categories=categories if len(categories) > 1 else [],
        filter_runs=[runs[place] for place in better] if len(better) > 1 else [],
        no_pictures=""
        if task.raw is not None
        else "The raw dataset is not here: samples are shown without their pictures.",
        notes=[
            f"{run.label} does not have this evaluation."
            for place, run in enumerate(runs)
            if place not in task.evaluations
        ]
        + [
            f"{_label(task, name)} of {runs[other].label} and {runs[task.reference].label} can't be compared: {reason}."
            for other, pair in task.pairs.items()
            for name, reason in pair.refused.items()
        ],
    )


def _label(task: TaskComparison, metric: str) -> str:
    return task.evaluations[task.reference].scores.label(metric)


def _score_rows(task: TaskComparison, metric: str, runs: Sequence[RunView]) -> list[DotRow]:
    """Return the model and every control as rows, with a dot for each run, and published figures of known models."""
    shown: dict[str, list[Dot]] = {}
    for number, item in task.evaluations.items():
        for control, values in {"none": item.scores.metrics, **item.scores.controls}.items():
            if metric in values:
                style = runs[number].style if control == "none" else f"{runs[number].style} control"
                shown.setdefault(control, []).append(Dot(values[metric], style, runs[number].label))
    rows = [DotRow(LABELS.get(control, control), dots) for control, dots in shown.items()]
    known = {
        one for item in task.evaluations.values() for one in item.scores.presentation.published if one.metric == metric
    }
    for one in sorted(known, key=lambda figure: (figure.model, figure.note)):
        name = f"{one.model}, {one.note}" if one.note else one.model
        rows.append(DotRow(f"{name}, as published", [Dot(Measure(value=one.value), "control", name)]))
    return rows


def _category_rows(task: TaskComparison, runs: Sequence[RunView]) -> list[DotRow]:
    """Return every group of samples as a row, with a dot for each run."""
    names: dict[str, list[Dot]] = {}
    for number, item in task.evaluations.items():
        for name, score in item.scores.categories.items():
            names.setdefault(f"{name} ({score.n})", []).append(Dot(score, runs[number].style, runs[number].label))
    return [DotRow(name, dots) for name, dots in names.items()]


def _verdict(task: TaskComparison, number: int, headline: str, runs: Sequence[RunView]) -> Verdict:
    pair, run, reference = task.pairs[number], runs[number], runs[task.reference].label
    if headline not in pair.tests:
        problem = pair.problem or pair.refused.get(headline, "the headline was not computed")
        return Verdict(run, reference, problem, "can't be compared", "warn")
    test = pair.tests[headline]
    text = (
        f"{_label(task, headline)} {points(test.value, sign=True)} points (95 % interval {interval(test, sign=True)}, "
        f"{p_value(test.p_value)}, {test.method})"
    )
    if not is_significant(test):
        return Verdict(run, reference, text, "no significant difference", "same")
    gain = task.evaluations[task.reference].scores.sign(headline) * test.value
    return Verdict(run, reference, text, *(("better", "yes") if gain > 0 else ("worse", "no")))


def _table(task: TaskComparison, metrics: Sequence[str], runs: Sequence[RunView]) -> list[ScoreRow]:
    rows = []
    for number, item in task.evaluations.items():
        cells = [
            (points(measure.value), [interval(measure)]) if (measure := item.scores.metrics.get(name)) else ("", [])
            for name in metrics
        ]
        mark = f" (PARTIAL: {item.scores.partial})" if item.scores.partial else ""
        rows.append(ScoreRow(runs[number], f"{runs[number].label}{mark}", cells))
    for number, pair in task.pairs.items():
        if pair.tests:
            cells = [
                (points(test.value, sign=True), [interval(test, sign=True), p_value(test.p_value)])
                if (test := pair.tests.get(name))
                else ("", [])
                for name in metrics
            ]
            rows.append(ScoreRow(runs[number], f"{runs[number].label} − {runs[task.reference].label}", cells))
    return rows


def _cards(task: TaskComparison, runs: Sequence[RunView]) -> list[Card]:
    categories = {
        name: place for place, name in enumerate(sorted({item.category for item in task.disagreements} - {""}))
    }
    binary = bool(task.measured_by) and find_metric(task.measured_by).form == "share"
    sign = task.evaluations[task.reference].scores.sign(task.measured_by)
    cards = []
    with _thumbnails(task.raw) as picture:
        for item in task.disagreements:
            values = {number: value for number, (_, value) in item.answers.items()}
            top = max(sign * value for value in values.values())
            best = [number for number, value in values.items() if sign * value == top]
            answers = []
            for number, (text, value) in item.answers.items():
                right = ("yes", "✓ right") if value > 0 else ("no", "✗ wrong")
                tone, shown = right if binary else ("", f"{_label(task, task.measured_by)} {value:.0f}")
                answers.append(AnswerView(runs[number], text, shown, tone))
            cards.append(
                Card(
                    item,
                    picture(item.image),
                    answers,
                    categories.get(item.category, -1),
                    best[0] if len(best) == 1 else -1,
                )
            )
    return cards


@contextmanager
def _thumbnails(raw: Path | None) -> Iterator[Callable[[str], str]]:
    """Yield what returns a picture of a raw dataset as a data URI; empty for one that can't be read."""
    if raw is None:
        yield lambda name: ""
        return
    with Pictures(raw) as pictures:

        def picture(name: str) -> str:
            try:
                return data_uri(thumbnail(pictures.open(name)))
            except InputError:
                return ""

        yield picture


def _cards_lead(task: TaskComparison, shown: int) -> str:
    if not task.disagreements:
        return ""
    metric = _label(task, task.measured_by)
    share = "" if shown == task.disagreeing else f"; the {shown} largest are shown"
    return f"{task.disagreeing} samples are scored differently ({metric} of each sample){share}."


def _curves(runs: Sequence[ComparedRun], views: Sequence[RunView]) -> list[CurvesView]:
    legend = [(view.style, view.label) for view in views]
    shown = []
    for stage in dict.fromkeys(stage for run in runs for stage in run.curves):
        title = TITLES.get(stage, stage)
        loss, rate = [], []
        for run, view in zip(runs, views, strict=True):
            curves = run.curves.get(stage, {})
            loss.append(Series(smoothed(curves.get("loss", [])), view.style))
            loss.append(Series(curves.get("validation_loss", []), f"{view.style} dashed", dots=True))
            rate.append(Series(curves.get("learning_rate", []), view.style))
        figures = [
            Figure(
                "Loss per answer token",
                line_chart(f"{title}: loss", "step", loss),
                [*legend, ("", "dashed: validation")],
            ),
            Figure("Learning rate", line_chart(f"{title}: learning rate", "step", rate), legend),
        ]
        shown.append(CurvesView(title, [figure for figure in figures if figure.chart]))
    return [view for view in shown if view.figures]


def _speeds(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    rows = []
    for stage, title in TITLES.items():
        facts: list[Mapping[str, object]] = [run.stages[stage].facts if stage in run.stages else {} for run in runs]
        for name, label in _SPEEDS.items():
            values = [item.get(name) for item in facts]
            if any(isinstance(value, int | float) for value in values):
                rows.append((f"{title}: {label.lower()}", [quantity(value) for value in values]))
    return rows


def _times(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str], bool]]:
    """Return for every stage its duration in each run, and whether all runs share one result."""
    rows = []
    for stage in dict.fromkeys(stage for run in runs for stage in run.stages):
        found = [run.stages.get(stage) for run in runs]
        keys = {item.key if item else "" for item in found}
        rows.append(
            (stage, [duration(item.duration_s) if item else "—" for item in found], len(keys) == 1 and "" not in keys)
        )
    return rows
