"""The one way from a reference to a run.

A reference is looked up in this order, and the first that fits is meant, whatever the command:

1. the path of a run's folder, `<workspace>/runs/<run id>`;
2. in the workspace: a run's id, else a name (the newest run of that name), else the beginning of an id (the newest such
   run), else the MLflow run id of one of its runs;
3. in MLflow: the same, also an MLflow run id of a pipeline's run or of one of its stages, and a registered model,
   `models:/NAME@ALIAS` or `models:/NAME/VERSION`, which stands for the run that made it.

Without a reference the newest run of the workspace is meant. On a cluster KFP takes the place of the workspace.
What "newest" means is in `reference.py`.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import InputError, StageError
from components.runs.folder import RunFolder, is_run_folder, run_folders
from components.runs.mlflow import (
    TrackedRun,
    fetch_artifact,
    find_tracked_run,
    is_mlflow_reference,
    newest_tracked_runs,
    stage_key,
    stage_runs,
)
from components.runs.reference import matching_run, newest_first
from components.runs.rows import FINISHED_STAGE
from components.stage.manifest import MANIFEST_NAME
from components.tracking.client import as_stage_error, connect

if TYPE_CHECKING:
    from components.runs.kfp import KfpRuns

_SHOWN = 10
_SUCCEEDED = "succeeded"


@dataclass(frozen=True)
class Places:
    """Where runs are looked for.

    Attributes:
        workspace: Root folder of stage outputs.
        tracking_uri: MLflow tracking URI; empty for no MLflow.
    """

    workspace: Path
    tracking_uri: str = ""

    @staticmethod
    def of(workspace: Path, tracking_uri: str = "") -> "Places":
        """Return a workspace with an MLflow: the given one, else the workspace's own database if it has one."""
        database = workspace / "mlflow.db"
        return Places(workspace, tracking_uri or (f"sqlite:///{database}" if database.is_file() else ""))


@dataclass(frozen=True)
class Run:
    """A run, wherever it was found.

    Attributes:
        run_id: Identifier of the pipeline run.
        name: The name that people gave it.
        started: When it was started, UTC; None where nothing recorded it.
        folder: Its folder; None where that is not on this machine.
        workspaces: Where its stage folders may lie.
        tracking_uri: MLflow tracking URI; empty for a run that is not tracked.
        mlflow_run_id: Its MLflow run; empty for a run that is not tracked.
    """

    run_id: str
    name: str
    started: datetime.datetime | None
    folder: RunFolder | None
    workspaces: tuple[Path, ...]
    tracking_uri: str = ""
    mlflow_run_id: str = ""

    def here(self) -> RunFolder:
        """Return its folder.

        Raises:
            InputError: MLflow knows the run, but its folder is not on this machine.
        """
        if self.folder is None:
            looked = " or ".join(str(workspace / "runs") for workspace in self.workspaces)
            raise InputError(
                f"MLflow at {self.tracking_uri} has the run {self.run_id} ({self.name}, MLflow run {self.mlflow_run_id}), "
                f"but its folder does not lie in {looked}. Mount its workspace, or look at it in MLflow."
            )
        return self.folder


@dataclass(frozen=True)
class FinishedStage:
    """A stage of a run that has finished.

    Attributes:
        key: Key of its folder: what its results depend on.
        folder: Its folder; None where that is not on this machine.
    """

    key: str
    folder: Path | None


def find_run(reference: str, places: Places, finished_only: bool = False, besides: str = "") -> Run:
    """Find the run that a reference names, as the text at the top of this file says.

    Args:
        reference: What the run is called; empty for the newest run of the workspace.
        places: Where it is looked for.
        finished_only: A name or the beginning of an id stands for finished runs alone.
        besides: Id of a run that is not meant: a run is not its own predecessor.

    Raises:
        InputError: There is no such run; says what there is.
        StageError: MLflow can't be asked.
    """
    if reference and is_run_folder(Path(reference)):
        return _of_folder(_folder_at(Path(reference).resolve()))
    here = [folder for folder in run_folders(places.workspace) if folder.run_id != besides]
    if not reference:
        if not here:
            raise InputError(
                f"There are no runs in {places.workspace}. Start one with `vlm run`, or name its workspace with --workspace."
            )
        return _of_folder(newest_first(here)[0])
    folder = matching_run(reference, here, lambda run: not finished_only or run.state() == _SUCCEEDED)
    if folder is None and is_mlflow_reference(reference):
        folder = next((run for run in here if run.context().get("mlflow_run_id") == reference), None)
    if folder is not None:
        return _of_folder(folder)
    tracked = _find_tracked(reference, places, finished_only, besides) if places.tracking_uri else None
    if tracked is None:
        raise InputError(_not_found(reference, places, here, finished_only))
    return _of_tracked(tracked, places)


def find_cluster_run(reference: str, runs: "KfpRuns", tracking_uri: str = "") -> str:
    """Return KFP's id of the run that a reference names.

    Args:
        reference: A run's folder, id, name or beginning of an id; where there is an MLflow also what only MLflow knows.
            Empty for the newest run.
        runs: The cluster's runs.
        tracking_uri: MLflow tracking URI; empty for no MLflow.

    Raises:
        InputError: There is no such run.
        StageError: KFP or MLflow can't be asked.
    """
    if reference and is_run_folder(Path(reference)):
        return _folder_at(Path(reference).resolve()).run_id
    if tracking_uri and is_mlflow_reference(reference):
        client = connect(tracking_uri)
        with as_stage_error(tracking_uri):
            tracked = find_tracked_run(client, reference)
        if tracked is not None:
            return tracked.run_id
    return runs.find(reference)


def find_stage(run: Run, stage: str) -> FinishedStage | None:
    """Find what a stage of a run left: by the run's folder, or by MLflow where that is not here.

    Args:
        run: The run.
        stage: Stage name, as "evaluate/captioning".

    Returns:
        The stage, or None where it has not finished.

    Raises:
        StageError: MLflow can't be asked.
    """
    if run.folder is not None:
        rows = (row for row in run.folder.stages(over=True) if row.stage == stage and row.state in FINISHED_STAGE)
        key = next((row.key for row in rows), "")
    else:
        client = connect(run.tracking_uri)
        with as_stage_error(run.tracking_uri):
            found = stage_runs(client, client.get_run(run.mlflow_run_id)).get(stage)
        key = "" if found is None else stage_key(found)
    if not key:
        return None
    folders = (workspace / stage / key for workspace in run.workspaces)
    return FinishedStage(key, next((folder for folder in folders if (folder / MANIFEST_NAME).is_file()), None))


def fetch_stage_file(run: Run, stage: str, name: str, folder: Path) -> Path | None:
    """Copy a file that a stage left in MLflow.

    Args:
        run: The run.
        stage: Stage name.
        name: Name of the file among the artifacts of the stage's run.
        folder: Where to.

    Returns:
        The copy, or None where MLflow has no such file.

    Raises:
        StageError: MLflow can't be asked.
    """
    if not run.mlflow_run_id or not run.tracking_uri:
        return None
    client = connect(run.tracking_uri)
    with as_stage_error(run.tracking_uri):
        found = stage_runs(client, client.get_run(run.mlflow_run_id)).get(stage)
        return None if found is None else fetch_artifact(client, found, name, folder)


def _folder_at(path: Path) -> RunFolder:
    if path.parent.name != "runs":
        raise InputError(
            f"{path} is a run's folder, but does not lie in <workspace>/runs: its stage folders can't be found. Put it back."
        )
    return RunFolder(path.parent.parent, path.name)


def _of_folder(folder: RunFolder) -> Run:
    context = folder.context()
    return Run(
        run_id=folder.run_id,
        name=folder.name or folder.run_id,
        started=folder.started,
        folder=folder,
        workspaces=(folder.workspace,),
        tracking_uri=context.get("tracking_uri", ""),
        mlflow_run_id=context.get("mlflow_run_id", ""),
    )


def _of_tracked(tracked: TrackedRun, places: Places) -> Run:
    """Return a run that MLflow knows, with its folder where that is here after all."""
    workspaces = tuple(dict.fromkeys(path for path in (places.workspace, tracked.workspace) if path is not None))
    folders = [RunFolder(workspace, tracked.run_id) for workspace in workspaces]
    return Run(
        run_id=tracked.run_id,
        name=tracked.name,
        started=tracked.started,
        # Another workspace may have a run of the same id, which is made of a name and a time.
        folder=next((run for run in folders if run.context().get("mlflow_run_id") == tracked.mlflow_run_id), None),
        workspaces=workspaces,
        tracking_uri=places.tracking_uri,
        mlflow_run_id=tracked.mlflow_run_id,
    )


def _find_tracked(reference: str, places: Places, finished_only: bool, besides: str) -> TrackedRun | None:
    try:
        client = connect(places.tracking_uri)
        with as_stage_error(places.tracking_uri):
            return find_tracked_run(client, reference, finished_only, besides)
    except StageError as error:
        raise StageError(
            f"The workspace {places.workspace} has no run {reference!r}, and MLflow could not be asked. {error}"
        ) from error


def _not_found(reference: str, places: Places, here: list[RunFolder], finished_only: bool) -> str:
    """Return what was looked for, where, and what there is."""
    what = "finished run" if finished_only else "run"
    shown = [run for run in newest_first(here) if not finished_only or run.state() == _SUCCEEDED][:_SHOWN]
    text = f"There is no {what} {reference!r} in {places.workspace} ({_listed([run.run_id for run in shown])})"
    if places.tracking_uri:
        client = connect(places.tracking_uri)
        with as_stage_error(places.tracking_uri):
            names = [run.name for run in newest_tracked_runs(client, finished_only)]
        text += f" and none in MLflow at {places.tracking_uri} ({_listed(names)})."
    else:
        text += ", and no MLflow to look in."
    folder = Path(reference)
    if (folder / MANIFEST_NAME).is_file():
        text += f" {folder} is the folder of a stage, which several runs may share."
    elif folder.is_dir():
        text += f" {folder} is not the folder of a run (no run.json, no context.json) or a finished stage (no {MANIFEST_NAME})."
    return text


def _listed(names: list[str]) -> str:
    return f"newest first: {', '.join(dict.fromkeys(names))}" if names else "it has none"
