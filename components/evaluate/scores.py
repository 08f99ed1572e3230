"""The scores of one task: what `scores.json` holds."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import StageError
from components.storage.atomic import write_text

SCORES_FILE = "scores.json"

METRIC_NAMES = {
    "cider": "CIDEr",
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "accuracy": "Accuracy",
}


class Measure(BaseModel):
    """A value in points (100 x the scorer's own) and its 95 % interval; None where the value is exact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float | None = None
    high: float | None = None


class CategoryScore(Measure):
    """The headline metric of one category and how many samples it has."""

    n: int


class PairedTest(Measure):
    """A difference of two models on the same samples, in points: the interval is the paired bootstrap's.

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


class Scores(BaseModel):
    """Scores of one model on one task.

    Attributes:
        task: Task name.
        kind: "captioning" or "multiple_choice".
        headline: The metric that stands for the task.
        unit: How values are to be read.
        n_expected: Samples that had to be answered.
        n_scored: Samples that were; equal to `n_expected`, or there would be no scores.
        n_dataset: Samples of the whole ground truth; more than `n_expected` where generation was limited.
        duplicates: Samples answered more than once; 0, or there would be no scores.
        empties: Empty predictions; they are scored like any other.
        metrics: Metric to the model's value.
        controls: Control ("blank", "shuffled", "constant", "chance") to the same metrics.
        differences: Control to the headline's difference, model minus control; the interval is a paired bootstrap's.
        categories: Category to its headline score.
        unparsed: Multiple choice: "none" or control to the number of answers without a readable letter.
        constant: The best constant caption, or the letter of the best constant answer.
        tokenizer: Captioning: what cut captions into words. Scores of different tokenizers don't compare.
        prompt: Prompt template; empty for the picture alone.
        prompt_version: Task name and version.
        dataset: SHA-256 of the ground truth file.
        dataset_file: Its name.
        checkpoint: Stage and key of the model folder.
        generation: Hash of the generation's settings.
        bootstrap_samples: Resamplings behind the intervals.
        git_commit: Commit of the code; empty when unknown.
        gates: How the gates were judged.
        notes: What a reader must know, such as a metric that could not be computed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    kind: Literal["captioning", "multiple_choice"]
    headline: str
    unit: str = "points: 100 x the scorer's value"
    n_expected: int
    n_scored: int
    n_dataset: int
    duplicates: int
    empties: int
    metrics: dict[str, Measure]
    controls: dict[str, dict[str, Measure]]
    differences: dict[str, Measure]
    categories: dict[str, CategoryScore] = {}
    unparsed: dict[str, int] = {}
    constant: str = ""
    tokenizer: str = ""
    prompt: str
    prompt_version: str
    dataset: str
    dataset_file: str
    checkpoint: str
    generation: str
    bootstrap_samples: int
    git_commit: str
    gates: list[GateResult] = []
    notes: list[str] = []

    @property
    def best_control(self) -> str:
        """The control with the highest headline value; empty without controls."""
        return max(self.controls, key=lambda name: self.controls[name][self.headline].value, default="")

    @property
    def meaning(self) -> str:
        """One sentence that says what the headline score shows."""
        name, score = METRIC_NAMES[self.headline], self.metrics[self.headline]
        what = "pictures" if self.kind == "captioning" else "questions"
        text = f"{name} {score.value:.1f} (95 % interval {score.low:.1f} to {score.high:.1f}) on {self.n_scored} held-out {what}"
        if not self.differences:
            return f"{text}; nothing to compare it with was asked for."
        # The control that is hardest to tell from the model.
        closest = min(self.differences, key=lambda control: _least(self.differences[control]))
        distance = self.differences[closest]
        versus = CONTROL_PHRASES[closest]
        if _least(distance) > 0:
            sees = bool({"blank", "shuffled"} & set(self.differences))
            shown = (
                "the answers depend on what is in the picture" if sees else "the model is better than answering blindly"
            )
            return f"{text}: {distance.value:.1f} points above {versus}, the closest control, so {shown}."
        return f"{text}: not reliably above {versus}, so there is no evidence here that the model uses the picture."


def _least(measure: Measure) -> float:
    return measure.value if measure.low is None else measure.low


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
