"""Reads what is compared of a run: from its folders in the workspace, and from MLflow what is not there any more."""

import datetime
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.errors import InputError, StageError, VlmError
from components.evaluate.sample_scores import SAMPLE_SCORES_FILE, SampleScores, read_sample_scores
from components.evaluate.scores import SCORES_FILE, Scores, read_scores
from components.runs.mlflow import STAGE_TAG, WORKSPACE_TAG, fetch_artifact, find_pipeline_run, stage_runs
from components.stage.context import RunContext
from components.stage.manifest import MANIFEST_NAME, read_manifest
from components.stage.progress import progress_folder
from components.tracking.tracker import METRICS_FILE, RUN_ID_TAG, connect, flatten

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

CURVES = ("loss", "validation_loss", "learning_rate")

_EARLIEST = datetime.datetime.min.replace(tzinfo=datetime.UTC)
_CONTEXT_FILE = "context.json"
_CONFIG_FILE = "config.yaml"
_EVALUATION = "evaluate/"
_FINISHED = ("done", "reused")


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
        started: When it started, UTC.
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


def load_runs(references: Sequence[str], workspace: Path, tracking_uri: str) -> list[ComparedRun]:
    """Find and read runs.

    Args:
        references: Each a run's folder, its id in the workspace (or the beginning of it), its name, an MLflow run id, or a
            registered model ("models:/NAME@ALIAS").
        workspace: Where folders of runs are looked for.
        tracking_uri: MLflow tracking URI, asked for what the workspace does not have; empty for none.

    Raises:
        InputError: A run does not exist, or two references name the same one.
    """
    runs = [_load(reference, workspace, tracking_uri) for reference in references]
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
    newest = max(tracked, key=lambda run: run.started or _EARLIEST)
    connect(newest.tracking_uri).log_artifact(newest.mlflow_run_id, str(page), "comparisons")
    return f"{newest.name} ({newest.mlflow_run_id}), comparisons/{page.name}"


def _load(reference: str, workspace: Path, tracking_uri: str) -> ComparedRun:
    folder = _run_folder(reference, workspace)
    if folder is not None:
        run = _from_folder(folder)
        if _is_incomplete(run) and run.mlflow_run_id:
            with _noted(run):
                client = connect(run.tracking_uri)
                _fill_from_mlflow(run, client, client.get_run(run.mlflow_run_id))
        return run
    if not tracking_uri:
        raise InputError(f"There is no run {reference!r} in {workspace}{_known(workspace)}, and no MLflow to look in.")
    client = connect(tracking_uri)
    try:
        found = find_pipeline_run(client, reference, "The run to compare")
    except VlmError as error:
        raise InputError(f"There is no run {reference!r} in {workspace}{_known(workspace)}. {error}") from error
    return _from_mlflow(client, tracking_uri, found)


def _run_folder(reference: str, workspace: Path) -> Path | None:
    """Return the folder of a run: the reference itself, or the latest of that id, beginning or name."""
    if (Path(reference) / _CONTEXT_FILE).is_file():
        return Path(reference).resolve()
    folders = sorted(
        (path.parent for path in (workspace / "runs").glob(f"*/{_CONTEXT_FILE}")),
        key=lambda path: (path / _CONTEXT_FILE).stat().st_mtime,
    )
    for matches in (
        lambda folder: folder.name == reference,
        lambda folder: _json(folder / _CONTEXT_FILE).get("run_name") == reference,
        lambda folder: folder.name.startswith(reference),
    ):
        matching = [folder for folder in folders if matches(folder)]
        if matching:
            return matching[-1]
    return None


def _known(workspace: Path) -> str:
    names = sorted(path.parent.name for path in (workspace / "runs").glob(f"*/{_CONTEXT_FILE}"))
    return f" (there are {', '.join(names[-10:])})" if names else " (it has none)"


def _from_folder(folder: Path) -> ComparedRun:
    """Read a run from `<workspace>/runs/<run id>` and the stage folders of that workspace."""
    workspace, context = folder.parent.parent, RunContext.model_validate(_json(folder / _CONTEXT_FILE))
    run = ComparedRun(
        name=context.run_name,
        run_id=context.run_id,
        mlflow_run_id=context.mlflow_run_id,
        tracking_uri=context.tracking_uri,
        git_commit=context.git_commit,
        started=datetime.datetime.fromtimestamp((folder / _CONTEXT_FILE).stat().st_mtime, datetime.UTC),
    )
    if (folder / _CONFIG_FILE).is_file():
        run.settings = _texts(yaml.safe_load((folder / _CONFIG_FILE).read_text(encoding="utf-8")))
    else:
        run.missing.append(f"The settings: {folder / _CONFIG_FILE} is gone.")
    for path in sorted(progress_folder(workspace, folder.name).glob("*.json")):
        record = _json(path)
        stage, state = str(record.get("stage", "")), str(record.get("state", ""))
        if path.stem == stage or not stage:  # of no folder: the opening of the run
            continue
        if state not in _FINISHED:
            run.missing.append(f"{stage}: it did not finish ({state or 'unknown'}).")
            continue
        _read_stage(run, stage, workspace / stage / path.stem.rpartition("-")[2], workspace)
    return run


def _read_stage(run: ComparedRun, stage: str, folder: Path, workspace: Path) -> None:
    if not (folder / MANIFEST_NAME).is_file():
        run.missing.append(f"{stage}: its folder {folder} is gone.")
        return
    with _noted(run, stage):
        manifest = read_manifest(folder)
        if stage not in run.stages or manifest.duration_s > run.stages[stage].duration_s:
            run.stages[stage] = StageFacts(manifest.key, manifest.duration_s, manifest.facts)
        if stage.startswith(_EVALUATION):
            raw = workspace / manifest.inputs.get("raw", "")
            _read_evaluation(run, stage, folder, raw if (raw / MANIFEST_NAME).is_file() else None)
        if (folder / METRICS_FILE).is_file():
            rows = [
                json.loads(line) for line in (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines() if line
            ]
            run.curves[stage] = {
                name: [(float(row["step"]), float(row[name])) for row in rows if row.get(name) is not None]
                for name in CURVES
            }


def _read_evaluation(run: ComparedRun, stage: str, folder: Path, raw: Path | None) -> None:
    samples = None
    if (folder / SAMPLE_SCORES_FILE).is_file():
        samples = read_sample_scores(folder)
    else:
        run.missing.append(f"{stage}: it left no {SAMPLE_SCORES_FILE}, so its samples can't be compared.")
    run.evaluations[stage.removeprefix(_EVALUATION)] = Evaluation(read_scores(folder), samples, raw)


def _from_mlflow(client: "MlflowClient", tracking_uri: str, found: "Run") -> ComparedRun:
    """Read a run that MLflow knows: from its workspace where that is here, else from MLflow alone."""
    tags = found.data.tags
    folder = Path(tags.get(WORKSPACE_TAG, "")) / "runs" / tags.get(RUN_ID_TAG, "")
    if tags.get(RUN_ID_TAG) and (folder / _CONTEXT_FILE).is_file():
        run = _from_folder(folder)
        run.mlflow_run_id, run.tracking_uri = str(found.info.run_id), tracking_uri
        if not _is_incomplete(run):
            return run
    else:
        run = ComparedRun(
            name=str(found.info.run_name),
            run_id=tags.get(RUN_ID_TAG, str(found.info.run_id)),
            mlflow_run_id=str(found.info.run_id),
            tracking_uri=tracking_uri,
            git_commit=tags.get("mlflow.source.git.commit", ""),
            started=datetime.datetime.fromtimestamp(found.info.start_time / 1000, datetime.UTC),
            settings=_settings_of(found),
            missing=[f"Its workspace {tags.get(WORKSPACE_TAG, '')} is not here: what is shown comes from MLflow."],
        )
    _fill_from_mlflow(run, client, found)
    return run


def _fill_from_mlflow(run: ComparedRun, client: "MlflowClient", found: "Run") -> None:
    """Add what the workspace does not have."""
    run.settings = run.settings or _settings_of(found)
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
        run.stages[stage] = StageFacts(stage_run.data.params.get("key", ""), duration_s, dict(stage_run.data.metrics))
        if curves:
            run.curves[stage] = curves
        if stage.startswith(_EVALUATION):
            with _noted(run, stage), tempfile.TemporaryDirectory() as temporary:
                for name in (SCORES_FILE, SAMPLE_SCORES_FILE):
                    fetch_artifact(client, stage_run, name, Path(temporary))
                if not (Path(temporary) / SCORES_FILE).is_file():
                    raise StageError(f"MLflow has no {SCORES_FILE} of it either.")
                _read_evaluation(run, stage, Path(temporary), None)


def _is_incomplete(run: ComparedRun) -> bool:
    return bool(run.missing)


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


def _settings_of(found: "Run") -> dict[str, str]:
    """Return the settings that a run logged as parameters."""

    def value(text: str) -> Any:
        try:
            return json.loads(text) if text.startswith("[{") else text
        except ValueError:  # cut at MLflow's limit
            return text

    return _texts({key: value(text) for key, text in found.data.params.items()})


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
