"""Scores of several benchmarks as one table, as a paper prints it: to look at, and to copy as Markdown or LaTeX."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.evaluate.scores import Scores
from components.pages.formats import interval, points

NONE = "–"
_CONTROLS = {"blank": "Blank", "shuffled": "Shuffled", "constant": "Constant", "chance": "Chance"}
_SEEN = "Seen"
_PARTIAL = "†"
_OTHERWISE = "*"
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "−": "$-$",
        "–": "--",
        _PARTIAL: r"\textsuperscript{\dag}",
    }
)


@dataclass(frozen=True)
class Cell:
    """A value; `interval` is empty where there is none."""

    text: str
    interval: str = ""

    @property
    def whole(self) -> str:
        """The value with its interval."""
        return f"{self.text} ({self.interval})" if self.interval else self.text


@dataclass(frozen=True)
class PaperTable:
    """A table of benchmarks.

    Attributes:
        heads: Names of the columns.
        rows: Cells of every row.
        notes: What stands below it.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [[_markdown(head) for head in self.heads], ["---", "---", *["---:"] * (len(self.heads) - 2)]]
        lines += [[_markdown(cell.whole) for cell in row] for row in self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([table, *self.notes]) + "\n"

    def latex(self) -> str:
        """Return the table as LaTeX, for the package booktabs."""
        lines = [f"\\begin{{tabular}}{{ll{'r' * (len(self.heads) - 2)}}}", r"\toprule"]
        lines.append(" & ".join(head.translate(_LATEX) for head in self.heads) + r" \\")
        lines.append(r"\midrule")
        lines += [" & ".join(_latex(cell) for cell in row) + r" \\" for row in self.rows]
        lines += [r"\bottomrule", r"\end{tabular}", *(f"% {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"


def paper_table(models: Mapping[str, Mapping[str, Scores]]) -> PaperTable:
    """Put the scores of one or several models into one table.

    Args:
        models: A model's name to the names of its evaluations and their scores.

    Returns:
        A row for each evaluation and metric that a paper's table shows, with the number of samples, how many test pictures
        training saw where that is known, every model's value with its 95 % interval, the controls where there is one model,
        and figures that are published of others.
    """
    tasks = tasks_of(models)
    names = names_of(tasks)
    controls = [name for name in _CONTROLS if any(name in scores.controls for scores in tasks.values())]
    controls = controls if len(models) == 1 else []
    published = list(dict.fromkeys(one.model for scores in tasks.values() for one in scores.presentation.published))
    seen = any(
        scores.seen is not None and scores.seen.seen is not None
        for scored in models.values()
        for scores in scored.values()
    )
    rows = []
    for task, scores in tasks.items():
        for metric in columns_of(scores):
            measured = [scored.get(task) for scored in models.values()]
            samples = sorted({str(found.n_scored) for found in measured if found is not None}, key=int)
            rows.append(
                [
                    Cell(names[task]),
                    Cell(scores.label(metric)),
                    Cell(" / ".join(samples)),
                    *([Cell(_seen(measured))] if seen else []),
                    *(_measured(found, metric) for found in measured),
                    *(_control(scores, name, metric) for name in controls),
                    *(_published(scores, model, metric) for model in published),
                ]
            )
    heads = [
        "Benchmark",
        "Metric",
        "n",
        *([_SEEN] if seen else []),
        *models,
        *(_CONTROLS[name] for name in controls),
        *published,
    ]
    return PaperTable(heads, rows, _notes(models, controls, published, seen))


def tasks_of(models: Mapping[str, Mapping[str, Scores]]) -> dict[str, Scores]:
    """Return every evaluation that a model has, with the scores of the first one that has it."""
    tasks: dict[str, Scores] = {}
    for scored in models.values():
        for name, scores in scored.items():
            tasks.setdefault(name, scores)
    return tasks


def names_of(tasks: Mapping[str, Scores]) -> dict[str, str]:
    """Return evaluation to its name in a table: the task's title, with the evaluation's name where several have one title."""
    titles = Counter(_title(scores) for scores in tasks.values())
    return {
        task: _title(scores) if titles[_title(scores)] == 1 else f"{_title(scores)} ({task})"
        for task, scores in tasks.items()
    }


def columns_of(scores: Scores) -> tuple[str, ...]:
    """Return the metrics that stand for an evaluation in a table."""
    return scores.presentation.columns or (scores.headline,)


def _title(scores: Scores) -> str:
    return scores.presentation.title or scores.task.replace("_", " ").capitalize()


def _seen(measured: Sequence[Scores | None]) -> str:
    """Return how many test pictures the models' trainings saw; a dash where that is not known."""
    known = {
        f"{found.seen.seen:,}" if found.seen is not None and found.seen.seen is not None else NONE
        for found in measured
        if found is not None
    }
    return " / ".join(sorted(known))


def _measured(scores: Scores | None, metric: str) -> Cell:
    measure = scores.metrics.get(metric) if scores is not None else None
    if scores is None or measure is None:
        return Cell(NONE)
    return Cell(points(measure.value) + (_PARTIAL if scores.partial else ""), interval(measure))


def _control(scores: Scores, control: str, metric: str) -> Cell:
    measure = scores.controls.get(control, {}).get(metric)
    return Cell(points(measure.value) if measure is not None else NONE)


def _published(scores: Scores, model: str, metric: str) -> Cell:
    found = [one for one in scores.presentation.published if (one.model, one.metric) == (model, metric)]
    return Cell(points(found[0].value) + (_OTHERWISE if found[0].note else "") if found else NONE)


def _notes(
    models: Mapping[str, Mapping[str, Scores]], controls: Sequence[str], published: Sequence[str], seen: bool
) -> list[str]:
    every = [scores for scored in models.values() for scores in scored.values()]
    notes = ["In brackets: 95 % intervals."]
    if seen:
        notes.append(f"{_SEEN}: test pictures that training saw.")
    if controls:
        notes.append(
            "Controls: the same model shown a blank picture (Blank) and another sample's picture (Shuffled), the best constant "
            "answer (Constant), guessing (Chance)."
        )
    partial = sorted({f"{scores.task}: {scores.partial}" for scores in every if scores.partial})
    if partial:
        notes.append(f"{_PARTIAL} Not the score of the whole benchmark ({'; '.join(partial)}).")
    if published:
        sources = dict.fromkeys(one.source for scores in every for one in scores.presentation.published)
        otherwise = sorted(
            {f"{_title(scores)}: {one.note}" for scores in every for one in scores.presentation.published if one.note}
        )
        if otherwise:
            notes.append(f"{_OTHERWISE} Published of something else ({'; '.join(otherwise)}).")
        notes.append(f"Figures of {', '.join(published)} as published: {', '.join(sources)}.")
    return notes


def _markdown(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", r"\|")


def _latex(cell: Cell) -> str:
    text = cell.text.translate(_LATEX)
    return f"{text} {{\\scriptsize({cell.interval.translate(_LATEX)})}}" if cell.interval else text
