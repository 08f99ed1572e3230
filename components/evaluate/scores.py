"""The scores of one task: what `scores.json` holds."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import StageError
from components.evaluate.seen import SeenInTraining
from components.metrics.metric import SIGNS, Direction
from components.metrics.registry import OWN_METRICS
from components.storage.atomic import write_text

SCORES_FILE = "scores.json"


class Measure(BaseModel):
    """A value in points (100 x the scorer's own) and its 95 % interval; None where the value is exact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float | None = None
    high: float | None = None


class CategoryScore(Measure):
    """The headline metric of one group of samples.

    Attributes:
        n: Samples.
        level: What the group is ("subject", "discipline"); groups of one level don't overlap.
    """

    n: int
    level: str = ""


class PairedTest(Measure):
    """A difference of two models on the same samples, in points; test and interval as in `components.metrics.paired`.

    Attributes:
        p_value: Two-sided: how often chance alone makes a difference this large.
        method: The test that the p-value comes from.
    """

    p_value: float
    method: str


class GateResult(BaseModel):
    """How a gate was judged.

    Attributes:
        requirement: What the gate asks for.
        measured: What was found.
        passed: Whether the model reaches it.
        action: What a gate that is not passed does to the run.
        note: How far noise could have decided; empty where it could not.
        baseline: MLflow run that the model was compared with; empty for none.
        difference: The model minus the baseline; None where they can't be compared.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    requirement: str
    measured: str
    passed: bool
    action: Literal["fail", "warn"]
    note: str = ""
    baseline: str = ""
    difference: PairedTest | None = None

    @property
    def outcome(self) -> Literal["pass", "warn", "fail"]:
        """What the gate says of the run."""
        return "pass" if self.passed else self.action


class PublishedFigure(BaseModel):
    """A figure of a known model on the same benchmark, in points.

    Attributes:
        model: The model.
        metric: The metric.
        value: Its value.
        source: Who published it, and where.
        note: What is otherwise than here; empty for nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    metric: str
    value: float
    source: str
    note: str = ""


class Presentation(BaseModel):
    """How scores of a kind of task are put to people.

    Attributes:
        title: The task's name.
        labels: Metric to its name.
        directions: Metric to what is better, a higher or a lower value, or neither.
        noun: What a sample is called, in the plural.
        scale: What the headline's values are.
        full_scale: Where the axis of its charts ends, in points; None to fit the values.
        lead: How to read the shown samples.
        method: How it was scored.
        columns: Metrics that a table of several benchmarks shows; none for the headline.
        published: Figures of known models.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = ""
    labels: dict[str, str] = {}
    directions: dict[str, Direction] = {}
    noun: str = "samples"
    scale: str = "points"
    full_scale: float | None = None
    lead: str = ""
    method: str = ""
    columns: tuple[str, ...] = ()
    published: tuple[PublishedFigure, ...] = ()


class Scores(BaseModel):
    """Scores of one model on one task.

    Attributes:
        task: Task name.
        kind: Kind of the task.
        headline: The metric that stands for the task.
        unit: How values are to be read.
        n_expected: Samples that had to be answered.
        n_scored: Samples that were; fewer than `n_expected` only where `allow_partial` said so.
        n_dataset: Samples of the whole ground truth; more than `n_expected` where generation was limited.
        duplicates: Answers beyond the first of a sample; more than 0 only where `allow_partial` said so.
        missing: What was not answered, where `allow_partial` said so: samples with control and partition.
        empties: Empty predictions; they are scored like any other.
        metrics: Metric to the model's value.
        controls: Control ("blank", "shuffled", "constant", "chance") to the same metrics.
        differences: Control to the headline's difference, model minus control; the interval is a paired bootstrap's.
        categories: Group of samples to its headline score.
        unparsed: "none" or control to the number of answers without a readable choice.
        constant: The best constant answer.
        tokenizer: What cut captions into words. Scores of different tokenizers don't compare.
        listed: What a reader may want to know by name: heading to ids.
        prompt: Prompt template; empty for the picture alone.
        prompt_version: Task name and version.
        task_identity: Task name, version and content key of the whole task with its kind's version.
        dataset: SHA-256 of the ground truth file.
        dataset_file: Its name.
        checkpoint: Stage and key of the model folder.
        checkpoint_files: Hash over names and SHA-256 of the model folder's files.
        published: What a published model is called; empty for a model of ours.
        versions: "generate" and "evaluate" to library to version.
        presentation: How this is put to people.
        seen: How many of the test pictures training saw; None in scores of older versions.
        partial: Why this is not the score of the whole ground truth with each sample once; empty where it is.
        generation: Hash of the generation's settings.
        bootstrap_samples: Resamplings behind the intervals.
        git_commit: Commit of the code; empty when unknown.
        gates: How the gates were judged.
        notes: What a reader must know, such as a metric that could not be computed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    kind: str
    headline: str
    unit: str = "points: 100 x the scorer's value"
    n_expected: int
    n_scored: int
    n_dataset: int
    duplicates: int
    missing: list[str] = []
    empties: int
    metrics: dict[str, Measure]
    controls: dict[str, dict[str, Measure]]
    differences: dict[str, Measure]
    categories: dict[str, CategoryScore] = {}
    unparsed: dict[str, int] = {}
    constant: str = ""
    tokenizer: str = ""
    listed: dict[str, list[str]] = {}
    prompt: str
    prompt_version: str
    task_identity: str = ""
    dataset: str
    dataset_file: str
    checkpoint: str
    checkpoint_files: str = ""
    published: str = ""
    versions: dict[str, dict[str, str]] = {}
    presentation: Presentation = Presentation()
    seen: SeenInTraining | None = None
    partial: str = ""
    generation: str
    bootstrap_samples: int
    git_commit: str
    gates: list[GateResult] = []
    notes: list[str] = []

    @property
    def best_control(self) -> str:
        """The control with the highest headline value; empty without controls."""
        sign = self.sign(self.headline)
        return max(self.controls, key=lambda name: sign * self.controls[name][self.headline].value, default="")

    @property
    def noun(self) -> str:
        """What a sample is called, in the plural."""
        return self.presentation.noun

    def label(self, metric: str) -> str:
        """Return a metric's name for people."""
        if metric in self.presentation.labels:
            return self.presentation.labels[metric]
        return OWN_METRICS[metric].label if metric in OWN_METRICS else metric

    def sign(self, metric: str) -> int:
        """Return what a larger value of a metric is worth: 1 where higher is better, -1 where lower is, 0 for neither."""
        return SIGNS[self.presentation.directions.get(metric, "higher")]

    def kfp_metrics(self) -> dict[str, float]:
        """Return what KFP's UI shows; the names say it when the score is partial."""
        mark = " (PARTIAL)" if self.partial else ""
        return {
            **{f"{name}{mark}": measure.value for name, measure in self.metrics.items()},
            **{
                f"{self.headline} {control}{mark}": values[self.headline].value
                for control, values in self.controls.items()
            },
            "samples scored": float(self.n_scored),
            "samples expected": float(self.n_expected),
        }

    @property
    def meaning(self) -> str:
        """One sentence that says what the headline score shows; begins with PARTIAL where it is of a part."""
        marked = f"PARTIAL ({self.partial}): " if self.partial else ""
        return marked + self._meaning()

    def _meaning(self) -> str:
        name, score = self.label(self.headline), self.metrics[self.headline]
        known = score.low is not None and score.high is not None
        sure = f"95 % interval {score.low:.1f} to {score.high:.1f}" if known else "too few for an interval"
        text = f"{name} {score.value:.1f} ({sure}) on {self.n_scored} held-out {self.noun}"
        if not self.differences:
            return f"{text}; nothing to compare it with was asked for."
        # The control that is hardest to tell from the model.
        sign = self.sign(self.headline)
        closest = min(self.differences, key=lambda control: _least(self.differences[control], sign))
        distance = self.differences[closest]
        side = "above" if sign > 0 else "below"
        versus = CONTROL_PHRASES[closest]
        if _least(distance, sign) > 0:
            sees = bool({"blank", "shuffled"} & set(self.differences))
            shown = (
                "the answers depend on what is in the picture" if sees else "the model is better than answering blindly"
            )
            return f"{text}: {abs(distance.value):.1f} points {side} {versus}, the closest control, so {shown}."
        return f"{text}: not reliably {side} {versus}, so there is no evidence here that the model uses the picture."


def why_partial(scored: int, expected: int, available: int, duplicates: int, noun: str) -> str:
    """Return why a score is not that of the whole ground truth with each sample once; empty where it is."""
    reasons = []
    if scored < expected:
        reasons.append(f"{expected - scored} of {expected} {noun} are not scored")
    if duplicates:
        reasons.append(f"{duplicates} repeated answers were left out")
    if expected < available:
        reasons.append(f"only the first {expected} of {available} {noun} were asked")
    return "; ".join(reasons)


def _least(difference: Measure, sign: int) -> float:
    """Return the least gain that a difference's interval allows for; none is sure without an interval."""
    end = difference.low if sign > 0 else difference.high
    return 0.0 if end is None else sign * end


CONTROL_PHRASES = {
    "blank": "the same model shown a blank picture",
    "shuffled": "the same model shown another sample's picture",
    "constant": "the best constant answer",
    "chance": "guessing",
}


def write_scores(folder: Path, scores: Scores) -> None:
    """Write `scores.json` atomically."""
    write_text(folder / SCORES_FILE, scores.model_dump_json(indent=2) + "\n")


def read_scores(folder: Path) -> Scores:
    """Read the scores of a finished evaluation.

    Raises:
        StageError: The file is missing or of another layout.
    """
    path = folder / SCORES_FILE
    try:
        return Scores.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise StageError(f"{path} does not hold scores: {error}. Run the evaluation again.") from error
