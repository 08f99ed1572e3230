"""Reads what is compared of a run: from its folders in the workspace, and from MLflow what is not there any more."""

import datetime
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InputError, StageError, VlmError
from components.evaluate.config import EVALUATION_PREFIX
from components.evaluate.sample_scores import SAMPLE_SCORES_FILE, SampleScores, read_sample_scores
from components.evaluate.scores import SCORES_FILE, Scores, read_scores
from components.runs.find import Places, Run, find_run
from components.runs.folder import CONFIG_NAME, RunFolder
from components.runs.mlflow import fetch_artifact, stage_key, stage_runs
from components.runs.reference import newest_first
from components.runs.rows import FINISHED_STAGE
from components.stage.manifest import MANIFEST_NAME, read_manifest
from components.tracking.client import as_stage_error, connect
from components.tracking.metrics_file import METRICS_FILE, read_metrics
from components.tracking.tags import COMMIT_TAG, STAGE_TAG
from components.tracking.tracker import flatten
from components.training.curves import curve

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

CURVES = ("loss", "validation_loss", "learning_rate")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
        scores: Its scores.
        samples: Its samples' scores; None where they are lost or were never written.
        raw: Raw dataset folder with the pictures; None where it is not here.
    """

    scores: Scores
    samples: SampleScores | None
    raw: Path | None


@dataclass(frozen=True)
class StageFacts:
    """What is known of a finished stage.

    Attributes:
        key: Key of its folder: equal keys are equal results.
        duration_s: How long the work took, whenever it was done.
        facts: What it found.
    """

    key: str
    duration_s: float
    facts: Mapping[str, Any]


@dataclass
class ComparedRun:
    """A finished or half-finished run.

    Attributes:
        name: The name that people gave it.
        run_id: Identifier of the pipeline run.
        mlflow_run_id: Its MLflow run; empty for none.
        tracking_uri: MLflow tracking URI; empty for none.
        git_commit: Commit of the code.
        started: When it was started, UTC; None where nothing recorded it.
        settings: Dotted key to value, as text.
        evaluations: Name of an evaluation to what it found.
        curves: Stage to curve to (step, value), steps ascending.
        stages: Stage to what is known of it; of several partitions the slowest one.
        missing: What could not be read, in sentences.
    """

    name: str
    run_id: str
    mlflow_run_id: str = ""
    tracking_uri: str = ""
    git_commit: str = ""
    started: datetime.datetime | None = None
    settings: dict[str, str] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    curves: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    stages: dict[str, StageFacts] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def load_runs(references: Sequence[str], places: Places) -> list[ComparedRun]:
    """Find and read runs.

    Args:
        references: What the runs are called (see `components/runs/find.py`).
        places: Where they are looked for.

    Raises:
        InputError: A run does not exist, or two references name the same one.
        StageError: MLflow can't be asked.
    """
    runs = [_load(find_run(reference, places)) for reference in references]
    for number, run in enumerate(runs):
        for earlier, other in enumerate(runs[:number]):
            if run.run_id == other.run_id:
                raise InputError(
                    f"{references[earlier]!r} and {references[number]!r} are the same run, {run.run_id}. "
                    "A name stands for its latest run: name an older one by its id."
                )
    return runs


def keep_page(runs: Sequence[ComparedRun], page: Path) -> str:
    """Store a page as an artifact of the newest tracked run, and return the name of that run.

    Raises:
        InputError: None of the runs is in MLflow.
    """
    tracked = [run for run in runs if run.mlflow_run_id and run.tracking_uri]
    if not tracked:
        raise InputError("None of these runs is in MLflow: there is nowhere to keep the page.")
    newest = newest_first(tracked)[0]
    connect(newest.tracking_uri).log_artifact(newest.mlflow_run_id, str(page), "comparisons")
    return f"{newest.name} ({newest.mlflow_run_id}), comparisons/{page.name}"


def _load(run: Run) -> ComparedRun:
    """Read a run: from its folder where that is here, and from MLflow what is not there."""
    compared = ComparedRun(
        name=run.name,
        run_id=run.run_id,
        mlflow_run_id=run.mlflow_run_id,
        tracking_uri=run.tracking_uri,
        started=run.started,
    )
    if run.folder is not None:
        _fill_from_folder(compared, run.folder)
    else:
        looked = " or ".join(map(str, run.workspaces))
        compared.missing.append(f"Its workspace is not here ({looked}): what is shown comes from MLflow.")
    if compared.missing and run.mlflow_run_id:
        with _noted(compared), as_stage_error(run.tracking_uri):
            _fill_from_mlflow(compared)
    return compared


def _fill_from_folder(run: ComparedRun, folder: RunFolder) -> None:
    """Add what a run's folder and the stage folders of its workspace have."""
    run.git_commit = folder.context().get("git_commit", "")
    run.settings = _texts(folder.settings())
    if not run.settings:
        run.missing.append(f"The settings: {folder.path / CONFIG_NAME} is gone.")
    for part in folder.parts(over=folder.state() != "running"):
        if not part.key:  # the opening of the run leaves no folder
            continue
        if part.state not in FINISHED_STAGE:
            run.missing.append(f"{part.stage}: it did not finish ({part.state}).")
            continue
        _read_stage(run, part.stage, folder.workspace / part.stage / part.key, folder.workspace)


def _read_stage(run: ComparedRun, stage: str, folder: Path, workspace: Path) -> None:
    if not (folder / MANIFEST_NAME).is_file():
        run.missing.append(f"{stage}: its folder {folder} is gone.")
        return
    with _noted(run, stage):
        manifest = read_manifest(folder)
        if stage not in run.stages or manifest.duration_s > run.stages[stage].duration_s:
            run.stages[stage] = StageFacts(manifest.key, manifest.duration_s, manifest.facts)
        if stage.startswith(EVALUATION_PREFIX):
            raw = workspace / manifest.read_from.get("raw", "")
            _read_evaluation(run, stage, folder, raw if (raw / MANIFEST_NAME).is_file() else None)
        if (folder / METRICS_FILE).is_file():
            rows = read_metrics(folder / METRICS_FILE)
            run.curves[stage] = {name: curve(rows, name) for name in CURVES}


def _read_evaluation(run: ComparedRun, stage: str, folder: Path, raw: Path | None) -> None:
    samples = None
    if (folder / SAMPLE_SCORES_FILE).is_file():
        try:
            samples = read_sample_scores(folder)
        except StageError as error:  # of an older version: its scores are shown all the same
            run.missing.append(f"{stage}: {error}")
    else:
        run.missing.append(f"{stage}: it left no {SAMPLE_SCORES_FILE}, so its samples can't be compared.")
    run.evaluations[stage.removeprefix(EVALUATION_PREFIX)] = Evaluation(read_scores(folder), samples, raw)


def _fill_from_mlflow(run: ComparedRun) -> None:
    """Add what the workspace does not have."""
    client = connect(run.tracking_uri)
    found = client.get_run(run.mlflow_run_id)
    run.settings = run.settings or _settings_of(found)
    run.git_commit = run.git_commit or found.data.tags.get(COMMIT_TAG, "")
    for stage, stage_run in stage_runs(client, found).items():
        if stage in run.stages or STAGE_TAG not in stage_run.data.tags:
            continue
        curves = {
            name: sorted(
                (float(point.step), point.value) for point in client.get_metric_history(stage_run.info.run_id, name)
            )
            for name in CURVES
            if name in stage_run.data.metrics
        }
        duration_s = (stage_run.info.end_time - stage_run.info.start_time) / 1000
        run.stages[stage] = StageFacts(stage_key(stage_run), duration_s, dict(stage_run.data.metrics))
        if curves:
            run.curves[stage] = curves
        if stage.startswith(EVALUATION_PREFIX):
            with _noted(run, stage), tempfile.TemporaryDirectory() as temporary:
                for name in (SCORES_FILE, SAMPLE_SCORES_FILE):
                    fetch_artifact(client, stage_run, name, Path(temporary))
                if not (Path(temporary) / SCORES_FILE).is_file():
                    raise StageError(f"MLflow has no {SCORES_FILE} of it either.")
                _read_evaluation(run, stage, Path(temporary), None)


@contextmanager
def _noted(run: ComparedRun, stage: str = "MLflow") -> Iterator[None]:
    """Note what can't be read, so that the rest is shown."""
    try:
        yield
    except (VlmError, ValueError, KeyError, OSError) as error:
        run.missing.append(f"{stage}: {error}")


def _texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as dotted keys and texts, the entries of a list of sections (gates) by their number."""
    texts: dict[str, str] = {}
    for key, value in flatten(settings).items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for number, item in enumerate(value):
                given = {name: entry for name, entry in item.items() if entry not in (None, "")}
                texts |= _texts({f"{key}.{number}": given})
        else:
            texts[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return texts


def _settings_of(found: "MlflowRun") -> dict[str, str]:
    """Return the settings that a run logged as parameters."""

    def value(text: str) -> Any:
        try:
            return json.loads(text) if text.startswith("[{") else text
        except ValueError:  # cut at MLflow's limit
            return text

    return _texts({key: value(text) for key, text in found.data.params.items()})
