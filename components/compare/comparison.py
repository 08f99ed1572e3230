"""What differs between runs: settings, scores with paired tests, samples on which they disagree."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.compare.runs import ComparedRun, Evaluation
from components.evaluate.paired import paired_tests, why_not_comparable
from components.evaluate.sample_scores import SampleScores
from components.evaluate.scores import PairedTest
from components.tasks.kind import POINTS

ABSENT = "—"
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Pair:
    """One run against the reference, the first run that has the evaluation.

    Attributes:
        tests: Metric to the run minus the reference; empty where they can't be compared.
        problem: Why they can't be compared; empty where they can.
        refused: Metric to why it alone can't be compared.
    """

    tests: Mapping[str, PairedTest]
    problem: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Disagreement:
    """A sample that the runs score differently.

    Attributes:
        id: The sample's id.
        image: Name of its picture.
        category: Its group; empty for none.
        prompt: The human turn.
        truth: The true captions, or the true answer.
        answers: Number of the run to its answer and the answer's value in points.
        size: Highest minus lowest value, in points.
    """

    id: str
    image: str
    category: str
    prompt: str
    truth: tuple[str, ...]
    answers: Mapping[int, tuple[str, float]]
    size: float


@dataclass(frozen=True)
class TaskComparison:
    """One evaluation in all runs that have it.

    Attributes:
        name: Name of the evaluation.
        evaluations: Number of the run to its evaluation.
        reference: Number of the run that the others are compared with.
        pairs: Number of any other run to how it compares.
        measured_by: Metric that tells the samples apart; empty where no samples are compared.
        disagreements: The samples, largest disagreement first.
        disagreeing: How many there are in all.
        raw: Raw dataset folder with the pictures; None where no run's is here.
    """

    name: str
    evaluations: Mapping[int, Evaluation]
    reference: int
    pairs: Mapping[int, Pair]
    measured_by: str
    disagreements: Sequence[Disagreement]
    disagreeing: int
    raw: Path | None


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown of several runs.

    Attributes:
        runs: The runs, in the order that they were named in.
        labels: What each is called: its name, or its id where names repeat.
        settings: Settings that differ: key to one value for each run.
        equal_settings: How many settings are the same in all runs.
        tasks: The evaluations.
    """

    runs: Sequence[ComparedRun]
    labels: Sequence[str]
    settings: Mapping[str, Sequence[str]]
    equal_settings: int
    tasks: Sequence[TaskComparison]


def compare(runs: Sequence[ComparedRun], samples: int) -> Comparison:
    """Compare runs.

    Args:
        runs: At least two.
        samples: Most disagreements that are kept for each evaluation.
    """
    names = [run.name for run in runs]
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    rows = {key: [run.settings.get(key, ABSENT) for run in runs] for key in keys}
    sections = [{key.partition(".")[0] for key in run.settings} for run in runs]
    differing = {
        key: values
        for key, values in rows.items()
        if key != "name" and _differ(values, [key.partition(".")[0] in known for known in sections])
    }
    evaluations = dict.fromkeys(name for run in runs for name in run.evaluations)
    return Comparison(
        runs=runs,
        labels=[run.name if names.count(run.name) == 1 else run.run_id for run in runs],
        settings=differing,
        equal_settings=len(rows) - len(differing),
        tasks=[_compare_task(name, runs, samples) for name in evaluations],
    )


def is_significant(test: PairedTest) -> bool:
    """Tell whether a difference is significant at the level that the page uses."""
    return test.p_value < SIGNIFICANCE


def _differ(values: Sequence[str], known: Sequence[bool]) -> bool:
    """Tell whether a setting differs among the runs that have its section: one that trained nothing has no recipe."""
    return len({value for value, has_section in zip(values, known, strict=True) if has_section}) > 1


def _compare_task(name: str, runs: Sequence[ComparedRun], count: int) -> TaskComparison:
    found = {number: run.evaluations[name] for number, run in enumerate(runs) if name in run.evaluations}
    reference = min(found)
    pairs = {number: _pair(found[reference], item) for number, item in found.items() if number != reference}
    comparable = [reference, *(number for number, pair in pairs.items() if not pair.problem)]
    samples = {number: item for number in comparable if (item := found[number].samples) is not None}
    headline = found[reference].scores.headline
    measured_by = _measure_of_samples(headline, list(samples.values())) if len(samples) > 1 else ""
    disagreements = _disagreements(samples, measured_by) if measured_by else []
    return TaskComparison(
        name=name,
        evaluations=found,
        reference=reference,
        pairs=pairs,
        measured_by=measured_by,
        disagreements=disagreements[:count],
        disagreeing=len(disagreements),
        raw=next((item.raw for item in found.values() if item.raw is not None), None),
    )


def _pair(reference: Evaluation, other: Evaluation) -> Pair:
    if reference.samples is None or other.samples is None:
        problem = why_not_comparable(reference.scores, other.scores)
        return Pair({}, problem or "the samples' scores are not here")
    problem = why_not_comparable(reference.scores, other.scores, (reference.samples, other.samples))
    if problem:
        return Pair({}, problem)
    problems = {
        name: reference.samples.problem(name) or other.samples.problem(name)
        for name in reference.scores.metrics
        if name in other.scores.metrics
    }
    refused = {name: text for name, text in problems.items() if text}
    metrics = [name for name in problems if name not in refused]
    return Pair(paired_tests(reference.samples, other.samples, metrics), refused=refused)


def _measure_of_samples(headline: str, samples: Sequence[SampleScores]) -> str:
    """Return the headline, or else the first metric, that every sample has a value of its own for."""
    for name in (headline, *samples[0].metrics):
        if all(not item.problem(name) and item.statistic(name).metric.form != "counts" for item in samples):
            return name
    return ""


def _disagreements(samples: Mapping[int, SampleScores], metric: str) -> list[Disagreement]:
    found = []
    own = [item.statistic(metric) for item in samples.values()]
    each = [(POINTS * statistic.metric.combine(statistic.parts)).tolist() for statistic in own]
    for rows, *values in zip(zip(*(item.rows for item in samples.values()), strict=True), *each, strict=True):
        size = max(values) - min(values)
        if size > 1e-6:
            answers = {number: (row.text, value) for number, row, value in zip(samples, rows, values, strict=True)}
            first = rows[0]
            found.append(Disagreement(first.id, first.image, first.category, first.prompt, first.truth, answers, size))
    # Of equal ones the order follows a hash of the ids: it favours no run.
    return sorted(found, key=lambda item: (-round(item.size, 6), hashlib.sha256(item.id.encode()).digest()))
