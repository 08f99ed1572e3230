"""The earlier run that a gate compares with: found in MLflow, its scores read from the workspace or from MLflow."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import ConfigurationError, StageError
from components.evaluate.config import Gate
from components.runs.mlflow import fetch_artifact, find_pipeline_run, stage_folder, stage_runs
from components.stage.context import RunContext
from components.stage.manifest import MANIFEST_NAME
from components.tracking.tracker import connect

if TYPE_CHECKING:
    from mlflow.entities import Run

    from components.evaluate.gates import Rival


@dataclass(frozen=True)
class Baseline:
    """An earlier run's evaluation of the same task.

    Attributes:
        reference: What the gate calls it.
        name: The run's name.
        run_id: Its MLflow run.
        stage_run: MLflow run of the evaluation.
        key: Key of the evaluation's folder: what the comparison depends on.
    """

    reference: str
    name: str
    run_id: str
    stage_run: "Run"
    key: str

    @property
    def identity(self) -> str:
        """What makes a judgement against this baseline another one: the run and its scores."""
        return f"run {self.run_id}, key {self.key}"


def find_baselines(context: RunContext, gates: Sequence[Gate], evaluation: str) -> dict[str, Baseline]:
    """Find every baseline that gates name.

    Args:
        context: The pipeline run.
        gates: The gates of one evaluation.
        evaluation: Its name.

    Returns:
        A gate's `baseline` to the run's evaluation.

    Raises:
        ConfigurationError: There is no such run, it has no such evaluation, or the run is not tracked.
    """
    references = list(dict.fromkeys(gate.baseline for gate in gates if gate.baseline))
    if not references:
        return {}
    setting = f"The baseline of a gate of {evaluation}"
    if not context.tracking_uri:
        raise ConfigurationError(
            f"{setting} is {references[0]!r}, but tracking is off (tracking.uri): earlier runs are found in MLflow."
        )
    client = connect(context.tracking_uri)
    found = {}
    for reference in references:
        run = find_pipeline_run(client, reference, setting, besides=context.mlflow_run_id)
        name = f"{run.info.run_name} ({run.info.run_id})"
        stage = stage_runs(client, run).get(f"evaluate/{evaluation}")
        if stage is None:
            raise ConfigurationError(f"{setting} is {reference!r}: the run {name} has no evaluation {evaluation}.")
        found[reference] = Baseline(
            reference, str(run.info.run_name), str(run.info.run_id), stage, stage.data.params.get("key", "")
        )
    return found


def read_baseline(context: RunContext, baseline: Baseline) -> "Rival":
    """Read what a baseline scored, from its folder in the workspace or else from MLflow.

    Raises:
        StageError: Neither has them.
    """
    from components.evaluate.gates import Rival
    from components.evaluate.sample_scores import SAMPLE_SCORES_FILE, read_sample_scores
    from components.evaluate.scores import SCORES_FILE, read_scores

    folder = stage_folder(baseline.stage_run, context.workspace)
    if folder is not None and (folder / MANIFEST_NAME).is_file() and (folder / SAMPLE_SCORES_FILE).is_file():
        return Rival(baseline.name, baseline.run_id, read_scores(folder), read_sample_scores(folder))
    client = connect(context.tracking_uri)
    with tempfile.TemporaryDirectory() as temporary:
        for name in (SCORES_FILE, SAMPLE_SCORES_FILE):
            if fetch_artifact(client, baseline.stage_run, name, Path(temporary)) is None:
                raise StageError(
                    f"The baseline {baseline.name} ({baseline.run_id}) left no {name} in MLflow, and its folder {folder} is "
                    "gone. Run it again (finished stages are reused), or choose another baseline."
                )
        scores, samples = read_scores(Path(temporary)), read_sample_scores(Path(temporary))
    return Rival(baseline.name, baseline.run_id, scores, samples)
