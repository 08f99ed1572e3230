"""What a gate compares with: an earlier run's scores, from its folder or else from MLflow, or a published model's in this run."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.context import RunContext
from components.errors import ConfigurationError, InputError, StageError
from components.evaluate.config import EVALUATION_PREFIX, Gate
from components.published_model.config import hub_source
from components.published_model.stage import PREFIX as PUBLISHED_PREFIX
from components.runs.find import FinishedStage, Places, Run, fetch_stage_file, find_run, find_stage
from components.runs.folder import RunFolder, is_run_folder
from components.runs.rows import FINISHED_STAGE
from components.stage.manifest import read_manifest

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
        same_run: It is a published model's, of the run whose gate it is.
    """

    reference: str
    run: Run
    stage: str
    evaluation: FinishedStage
    same_run: bool = False

    @property
    def run_id(self) -> str:
        """Its MLflow run; of a run that is not tracked the pipeline run's id."""
        return self.run.mlflow_run_id or self.run.run_id

    @property
    def identity(self) -> str:
        """What makes a judgement against this baseline another one: the run and its scores."""
        if self.same_run:
            return f"key {self.evaluation.key}"
        return f"run {self.run_id}, key {self.evaluation.key}"


def find_baselines(context: RunContext, gates: Sequence[Gate], evaluation: str, task: str = "") -> dict[str, Baseline]:
    """Find every baseline that gates name: a published model of this run, else a run in the workspace, else one in MLflow.

    Args:
        context: The pipeline run.
        gates: The gates of one evaluation.
        evaluation: Its name.
        task: Its task as in the settings, for published models of this run; empty before anything is scored.

    Returns:
        A gate's `baseline` to the run's evaluation.

    Raises:
        ConfigurationError: There is no such finished run, or it has no such evaluation.
    """
    stage = f"{EVALUATION_PREFIX}{evaluation}"
    places = Places(context.workspace, context.tracking_uri)
    found = {}
    for reference in dict.fromkeys(gate.baseline for gate in gates if gate.baseline):
        own = _of_this_run(context, reference, task) if task else None
        if own is not None:
            found[reference] = own
            continue
        setting = f"The baseline of a gate of {evaluation} is {reference!r}"
        try:
            run = find_run(reference, places, finished_only=True, besides=context.run_id)
        except InputError as error:
            hint = (
                ""
                if context.tracking_uri
                else " Runs of other workspaces are found in MLflow: tracking is off (tracking.uri)."
            )
            if published := hub_source(reference):
                hint += f" To score {published} first: vlm evaluate {reference}."
            raise ConfigurationError(f"{setting}: {error}{hint}") from error
        scored = find_stage(run, stage)
        if scored is None:
            raise ConfigurationError(f"{setting}: the run {run.name} ({run.run_id}) has no evaluation {evaluation}.")
        found[reference] = Baseline(reference, run, stage, scored)
    return found


def _of_this_run(context: RunContext, reference: str, task: str) -> Baseline | None:
    """Return what a published model of this run has scored on a task, if it is called so and has."""
    folder = RunFolder(context.workspace, context.run_id)
    if not is_run_folder(folder.path):
        return None
    for row in folder.stages():
        if not row.stage.startswith(EVALUATION_PREFIX) or row.state not in FINISHED_STAGE or row.folder is None:
            continue
        manifest = read_manifest(row.folder)
        model = manifest.inputs.get("model", "").removeprefix(PUBLISHED_PREFIX).partition("/")[0]
        names = {model, manifest.facts.get("published")} if manifest.facts.get("published") else set()
        if reference in names and manifest.settings.get("task") == task:
            run = find_run(str(folder.path), Places(context.workspace))
            return Baseline(reference, run, row.stage, FinishedStage(row.key, row.folder), same_run=True)
    return None


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
