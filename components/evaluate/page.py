"""The evaluation as a page: scores as bars with their controls, and held-out pictures with the model's answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.evaluate.samples import ShownSample
from components.evaluate.scores import Measure, Scores
from components.pages.bars import Bar, BarRow, bars
from components.pages.charts import Dot, DotRow, Figure, dot_chart
from components.pages.page import render_page
from components.pages.pictures import data_uri

TEMPLATES = Path(__file__).parent / "templates"
"""Folder of `evaluation_parts.html.j2`, which shows an `EvaluationView` on any page, and its `evaluation.css`."""

LABELS = {
    "none": "Model",
    "blank": "Blank picture",
    "shuffled": "Another sample's picture",
    "constant": "Best constant answer",
    "chance": "Guessing",
}


@dataclass(frozen=True)
class EvaluationView:
    """What the templates show of one evaluation; see `templates/evaluation_parts.html.j2`."""

    title: str
    scores: Scores
    bars: list[Bar]
    published: list[Figure]
    categories: list[tuple[str, list[Bar]]]
    scale: str
    method: str
    cards: list[tuple[ShownSample, str]]
    cards_lead: str
    labels: Mapping[str, str]
    metric_names: Mapping[str, str]


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
        bars=_score_bars(scores),
        published=_published(scores),
        categories=_categories(scores),
        scale=f"{scores.presentation.scale}; whiskers show the 95 % interval",
        method=_method(scores),
        cards=[(sample, data_uri((folder / sample.picture).read_bytes())) for sample in samples],
        cards_lead=scores.presentation.lead,
        labels=LABELS,
        metric_names={name: scores.label(name) for name in scores.metrics},
    )


def title_of(scores: Scores) -> str:
    """Return the task's name for people, with a published model's; it says so when the score is partial."""
    title = scores.presentation.title or scores.task.replace("_", " ").capitalize()
    title = f"{title}: {scores.published}" if scores.published else title
    return f"{title} (PARTIAL)" if scores.partial else title


def render_evaluation(scores: Scores, samples: Sequence[ShownSample], folder: Path) -> str:
    """Return the page, one file that needs nothing else; `folder` is where the samples' pictures lie."""
    return render_page(TEMPLATES / "evaluation.html.j2", evaluation_view(scores, samples, folder))


def _score_bars(scores: Scores) -> list[Bar]:
    """Return the headline metric of the model and of every control."""
    rows = [BarRow(LABELS["none"], scores.metrics[scores.headline])]
    rows += [BarRow(LABELS[name], values[scores.headline], own=False) for name, values in scores.controls.items()]
    return bars(rows, scores.presentation.full_scale)


def _published(scores: Scores) -> list[Figure]:
    """Return a chart of the model beside known ones, for every metric that they have figures of."""
    figures = []
    known = scores.presentation.published
    for metric in dict.fromkeys(one.metric for one in known if one.metric in scores.metrics):
        dots = [DotRow(LABELS["none"], [Dot(scores.metrics[metric], "main", LABELS["none"])])]
        dots += [
            DotRow(
                f"{one.model}, {one.note}" if one.note else one.model,
                [Dot(Measure(value=one.value), "second control", one.model)],
            )
            for one in known
            if one.metric == metric
        ]
        caption = f"{scores.label(metric)} of this model and of known ones, as published"
        figures.append(Figure(caption, dot_chart(f"{scores.label(metric)} beside published figures", dots)))
    return figures


def _categories(scores: Scores) -> list[tuple[str, list[Bar]]]:
    """Return the bars of every level of groups."""
    levels: dict[str, list[BarRow]] = {}
    for name, score in scores.categories.items():
        levels.setdefault(score.level, []).append(BarRow(f"{name} ({score.n})", score))
    return [(level, bars(rows, scores.presentation.full_scale)) for level, rows in levels.items()]


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
