"""The evaluation as a page: scores as bars with their controls, and held-out pictures with the model's answers."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from components.evaluate.samples import ShownSample
from components.evaluate.scores import Measure, Scores

TEMPLATES = Path(__file__).parent / "templates"

LABELS = {
    "none": "Model",
    "blank": "Blank picture",
    "shuffled": "Another sample's picture",
    "constant": "Best constant answer",
    "chance": "Guessing",
}


@dataclass(frozen=True)
class Bar:
    """One bar with its 95 % interval; widths and places in percent of the axis."""

    label: str
    measure: Measure
    own: bool
    width: float
    span_left: float | None
    span_width: float | None


@dataclass(frozen=True)
class EvaluationView:
    """What the templates show of one evaluation; see `templates/macros.html.j2`."""

    title: str
    scores: Scores
    bars: list[Bar]
    categories: list[tuple[str, list[Bar]]]
    scale: str
    method: str
    cards: list[tuple[ShownSample, Markup]]
    cards_lead: str
    labels: Mapping[str, str]
    metric_names: Mapping[str, str]


def environment(*folders: Path) -> Environment:
    """Return the templates of the given folders and of this one; everything that is filled in is escaped."""
    return Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def stylesheet() -> Markup:
    """Return the pages' style sheet."""
    return Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))


def evaluation_view(scores: Scores, samples: Sequence[ShownSample], folder: Path) -> EvaluationView:
    """Prepare an evaluation for the templates.

    Args:
        scores: The scores.
        samples: The samples to show.
        folder: Where their pictures lie.
    """
    return EvaluationView(
        title=title_of(scores),
        scores=scores,
        bars=score_bars(scores),
        categories=_categories(scores),
        scale=f"{scores.presentation.scale}; whiskers show the 95 % interval",
        method=_method(scores),
        cards=[(sample, data_uri(folder / sample.picture)) for sample in samples],
        cards_lead=scores.presentation.lead,
        labels=LABELS,
        metric_names={name: scores.label(name) for name in scores.metrics},
    )


def title_of(scores: Scores) -> str:
    """Return the task's name for people; it says so when the score is partial."""
    title = scores.presentation.title or scores.task.replace("_", " ").capitalize()
    return f"{title} (PARTIAL)" if scores.partial else title


def score_bars(scores: Scores) -> list[Bar]:
    """Return the headline metric of the model and of every control."""
    rows = [(LABELS["none"], scores.metrics[scores.headline], True)]
    rows += [(LABELS[name], values[scores.headline], False) for name, values in scores.controls.items()]
    top = max(measure.high if measure.high is not None else measure.value for _, measure, _ in rows)
    return _bars(rows, scores.presentation.full_scale or nice_ceiling(top))


def nice_ceiling(value: float) -> float:
    """Return the next number of the series 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10 times a power of ten, at least 1."""
    if value <= 1:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return float(next(step * power for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value))


def data_uri(picture: Path) -> Markup:
    """Return a JPEG as a data URI."""
    return Markup("data:image/jpeg;base64," + base64.b64encode(picture.read_bytes()).decode())


def render_evaluation(scores: Scores, samples: Sequence[ShownSample], folder: Path) -> str:
    """Return the page, one file that needs nothing else; `folder` is where the samples' pictures lie."""
    page = environment().get_template("evaluation.html.j2")
    return page.render(view=evaluation_view(scores, samples, folder), css=stylesheet())


def _bars(rows: Sequence[tuple[str, Measure, bool]], top: float) -> list[Bar]:
    def percent(value: float) -> float:
        return round(100 * min(max(value / top, 0.0), 1.0), 2)

    bars = []
    for label, measure, own in rows:
        left = width = None
        if measure.low is not None and measure.high is not None:
            left = percent(measure.low)
            width = round(percent(measure.high) - left, 2)
        bars.append(Bar(label, measure, own, percent(measure.value), left, width))
    return bars


def _categories(scores: Scores) -> list[tuple[str, list[Bar]]]:
    """Return the bars of every level of groups."""
    levels: dict[str, list[tuple[str, Measure, bool]]] = {}
    for name, score in scores.categories.items():
        levels.setdefault(score.level, []).append((f"{name} ({score.n})", score, True))
    top = scores.presentation.full_scale
    return [
        (level, _bars(rows, top or nice_ceiling(max(row[1].high or row[1].value for row in rows))))
        for level, rows in levels.items()
    ]


def _method(scores: Scores) -> str:
    share = "" if scores.n_expected == scores.n_dataset else f" (the first of {scores.n_dataset})"
    each = "" if scores.partial else ", each once"
    text = (
        f"{scores.n_scored} of {scores.n_expected} held-out samples scored{share}{each}; {scores.empties} empty answers. "
        f"95 % intervals: Wilson's for shares of right answers, else bootstrap over {scores.noun}, "
        f"{scores.bootstrap_samples} resamples. {scores.presentation.method}"
    )
    if scores.constant and scores.constant not in text:
        text += f" Best constant answer: always “{scores.constant}”."
    return text.strip()
