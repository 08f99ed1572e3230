"""The earlier run that a gate compares with: what it scored, from its folder or else from MLflow."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.context import RunContext
from components.errors import ConfigurationError, InputError, StageError
from components.evaluate.config import EVALUATION_PREFIX, Gate
from components.runs.find import FinishedStage, Places, Run, fetch_stage_file, find_run, find_stage

if TYPE_CHECKING:
    from components.evaluate.gates import Rival


@dataclass(frozen=True)
class Baseline:
    """An earlier run's evaluation of the same task.

    Attributes:
        reference: What the gate calls it.
        run: The run.
        stage: Name of the evaluation's stage.
        evaluation: The evaluation.
    """

    reference: str
    run: Run
    stage: str
    evaluation: FinishedStage

    @property
    def run_id(self) -> str:
        """Its MLflow run; of a run that is not tracked the pipeline run's id."""
        return self.run.mlflow_run_id or self.run.run_id

    @property
    def identity(self) -> str:
        """What makes a judgement against this baseline another one: the run and its scores."""
        return f"run {self.run_id}, key {self.evaluation.key}"


def find_baselines(context: RunContext, gates: Sequence[Gate], evaluation: str) -> dict[str, Baseline]:
    """Find every baseline that gates name: in the run's workspace, else in MLflow.

    Args:
        context: The pipeline run.
        gates: The gates of one evaluation.
        evaluation: Its name.

    Returns:
        A gate's `baseline` to the run's evaluation.

    Raises:
        ConfigurationError: There is no such finished run, or it has no such evaluation.
    """
    stage = f"{EVALUATION_PREFIX}{evaluation}"
    places = Places(context.workspace, context.tracking_uri)
    found = {}
    for reference in dict.fromkeys(gate.baseline for gate in gates if gate.baseline):
        setting = f"The baseline of a gate of {evaluation} is {reference!r}"
        try:
            run = find_run(reference, places, finished_only=True, besides=context.run_id)
        except InputError as error:
            hint = (
                ""
                if context.tracking_uri
                else " Runs of other workspaces are found in MLflow: tracking is off (tracking.uri)."
            )
            raise ConfigurationError(f"{setting}: {error}{hint}") from error
        scored = find_stage(run, stage)
        if scored is None:
            raise ConfigurationError(f"{setting}: the run {run.name} ({run.run_id}) has no evaluation {evaluation}.")
        found[reference] = Baseline(reference, run, stage, scored)
    return found


def read_baseline(baseline: Baseline) -> "Rival":
    """Read what a baseline scored, from its folder in the workspace or else from MLflow.

    Raises:
        StageError: Neither has them.
    """
    from components.evaluate.gates import Rival
    from components.evaluate.sample_scores import SAMPLE_SCORES_FILE, read_sample_scores
    from components.evaluate.scores import SCORES_FILE, read_scores

    run, folder = baseline.run, baseline.evaluation.folder
    if folder is not None and (folder / SAMPLE_SCORES_FILE).is_file():
        return Rival(run.name, baseline.run_id, read_scores(folder), read_sample_scores(folder))
    with tempfile.TemporaryDirectory() as temporary:
        for name in (SCORES_FILE, SAMPLE_SCORES_FILE):
            if fetch_stage_file(run, baseline.stage, name, Path(temporary)) is None:
                raise StageError(
                    f"The baseline {run.name} ({run.run_id}) left no {name}, neither in its workspace nor in MLflow. "
                    "Run it again (finished stages are reused), or choose another baseline."
                )
        scores, samples = read_scores(Path(temporary)), read_sample_scores(Path(temporary))
    return Rival(run.name, baseline.run_id, scores, samples)
