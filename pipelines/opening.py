"""Opens a pipeline run: settles its configuration, opens it in MLflow, splits the configuration by stage.

Apart from the KFP tasks in open_run.py, since inside a running task KFP's decorators don't exist.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from components.context import RunContext
from components.errors import ConfigurationError
from components.evaluate.baseline import find_baselines
from components.progress import Progress, progress_folder
from components.report.stage import REPORT_FILE
from components.runs.folder import CONFIG_NAME, CONTEXT_NAME, RUN_ID_VARIABLE, RunFolder, timestamp
from components.runs.kfp import run_page
from components.runs.rows import FINISHED_STAGE, StageRow
from components.storage.atomic import write_json, write_text
from components.tasks.loading import load_task
from components.tracking.pipeline_run import finish_pipeline_run, open_pipeline_run
from pipelines.config import RunConfig, setting, value_at
from pipelines.parameters import OVERRIDES, UI_PARAMETERS
from pipelines.preset_files import apply_overrides, put, validate
from pipelines.stages import training_stages

_PIPELINE = "vlm-training"
_MLFLOW_STATUS = {
    # How KFP's local runner says that a run has ended.
    "SUCCEEDED": "FINISHED",
    "FAILED": "FAILED",
    "CANCELLED": "KILLED",
    # How a cluster says it: in the words of ML Metadata. What still runs when the last task begins was cut off.
    "COMPLETE": "FINISHED",
    "CACHED": "FINISHED",
    "CANCELED": "KILLED",
    "RUNNING": "KILLED",
}
_RUN_STATE = {"FINISHED": "succeeded", "FAILED": "failed", "KILLED": "interrupted"}


class Opened(NamedTuple):
    """What the stages of a run are given, as KFP can carry it.

    Attributes:
        context: The `RunContext`.
        settings: Name of a stage to its settings.
        cluster: The `ClusterConfig`.
    """

    context: dict[str, Any]
    settings: dict[str, Any]
    cluster: dict[str, Any]


def open_pipeline(config: Mapping[str, Any], parameters: Mapping[str, Any], run_id: str) -> Opened:
    """Settle the configuration of a run, open the run, and split the configuration into what each stage gets.

    Args:
        config: The preset's settings.
        parameters: Values of the UI's parameters.
        run_id: Identifier of the pipeline run.

    Raises:
        ConfigurationError: A setting is unknown or wrong, or a gate's baseline does not exist.
        StageError: The tracking server can't be reached.
    """
    settled = settle(config, parameters)
    workspace = settled.workspace.absolute()
    progress = Progress("open_run", progress_folder(workspace, run_id) / "open_run.json")
    progress.start("checking settings", None, "")
    try:
        context = _open(settled, workspace, run_id)
    except Exception as error:
        progress.finish("failed", str(error))
        _close(RunFolder(workspace, run_id), "FAILED")  # no other task begins, so that none else would
        raise
    progress.finish("done")
    return Opened(stored_settings(context), stage_settings(settled), stored_settings(settled.cluster))


def settle(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> RunConfig:
    """Return the validated configuration of a run.

    A parameter left at its preset's value changes nothing, so that settings behind one parameter may differ.

    Args:
        config: The preset's settings.
        parameters: Values of the UI's parameters, as far as they are not the preset's; the overrides among them have the
            last word.

    Raises:
        ConfigurationError: A setting is unknown or wrong, or the file of a task is not here.
    """
    preset = validate(config, "this pipeline's preset")
    tree = preset.model_dump(mode="json")
    for parameter in UI_PARAMETERS:
        value = parameters.get(parameter.name, parameter.default(preset))
        if value != parameter.default(preset):
            for key in parameter.keys(preset):
                put(tree, key, value)
    overrides: Sequence[Any] = parameters.get(OVERRIDES, [])
    for override in overrides:
        if not isinstance(override, str):
            raise ConfigurationError(
                f'overrides must be a list of texts like "pretrain.recipe.seed=1", it has {override!r}.'
            )
    settled = validate(apply_overrides(tree, overrides), "this run")
    _check_compiled(preset, settled)
    for evaluation in settled.evaluations.values():
        load_task(evaluation.generate.task)  # a file that is missing here is missed before the training, not after
    if settled.workspace != Path(tree["workspace"]):
        raise ConfigurationError(
            "workspace is a parameter of the pipeline, which its first and last task share: set it there, not in overrides."
        )
    if preset.cluster.pvc and settled.workspace != preset.workspace:
        raise ConfigurationError(
            f"workspace is {settled.workspace}, but the compiled pipeline mounts the volume {preset.cluster.pvc} at "
            f"{preset.workspace}. Compile again: vlm compile --set workspace=..."
        )
    return settled


def _check_compiled(preset: RunConfig, settled: RunConfig) -> None:
    """Refuse changes of what the compiled pipeline has fixed: they would be without effect.

    Raises:
        ConfigurationError: Such a setting differs from the preset's.
    """
    if _tasks(settled) != _tasks(preset):
        raise ConfigurationError(
            "The names of the evaluations and their model are tasks of the compiled pipeline and can't change in a run. "
            "Compile again: vlm compile --set evaluations...=..."
        )
    for key in (f"{stage.settings}.{name}" for stage in training_stages(preset) for name in stage.compiled):
        if setting(settled, key) != setting(preset, key):
            raise ConfigurationError(
                f"{key} decides the tasks of the compiled pipeline and can't change in a run. "
                f"Compile again: vlm compile --set {key}=..."
            )
    for name in type(settled.cluster).model_fields:
        if name != "job" and getattr(settled.cluster, name) != getattr(preset.cluster, name):
            raise ConfigurationError(
                f"cluster.{name} is part of the compiled pipeline and can't change in a run (cluster.job can). "
                f"Compile again: vlm compile --set cluster.{name}=..."
            )


def _tasks(config: RunConfig) -> dict[str, set[str]]:
    """Return the name of every stage and of what it follows."""
    return {stage.name: set(stage.follows) for stage in training_stages(config)}


def stage_settings(config: RunConfig) -> dict[str, Any]:
    """Return every stage's settings by its name, as KFP can carry them."""
    tree = stored_settings(config)
    return {stage.name: value_at(tree, stage.settings) for stage in training_stages(config) if stage.settings}


def stored_settings(config: BaseModel) -> dict[str, Any]:
    """Return settings as KFP can carry them: JSON without nulls (whose settings have null as their default)."""
    return config.model_dump(mode="json", exclude_none=True)


def close_pipeline(workspace: Path, run_id: str, state: str) -> None:
    """End a run in MLflow as it has ended in KFP, and say what became of its stages.

    Args:
        workspace: Root folder of all stage outputs.
        run_id: Identifier of the pipeline run.
        state: KFP's final state: "SUCCEEDED", "FAILED" or "CANCELLED" of a local run, on a cluster a state of ML Metadata
            ("COMPLETE", "CACHED", "FAILED", "CANCELED" or "RUNNING"). Of an unknown one the stages say what it means.
    """
    run = RunFolder(workspace.absolute(), run_id)
    rows = run.stages(over=True)
    finished = sum(row.state in FINISHED_STAGE for row in rows)
    print(f"run {run_id} {state.lower()}: {finished} stages finished", flush=True)
    for row in rows:
        if row.state in ("failed", "interrupted"):
            print(f"{row.stage} {row.state}: {row.message}", flush=True)
    _close(run, _MLFLOW_STATUS.get(state) or _status_of(rows, state))


def _status_of(rows: Sequence[StageRow], state: str) -> str:
    """Return how a run has ended whose final state is a word that we don't know: no stage failed, no failed run."""
    status = "FAILED" if any(row.state == "failed" for row in rows) else "KILLED"
    print(
        f"WARNING: KFP's final state {state!r} is not known; by its stages the run is {_RUN_STATE[status]}", flush=True
    )
    return status


def _close(run: RunFolder, status: str) -> None:
    """End a run in its record and in MLflow."""
    context = run.context()  # empty when open_run has failed before there was a run in MLflow
    if "pid" not in run.record():  # `vlm run` keeps the record of its own runs
        run.update_record(state=_RUN_STATE[status], ended=timestamp())
    if context:
        finish_pipeline_run(RunContext.model_validate(context), status)


def run_identifier(job_id: str) -> str:
    """Return the run's identifier: the one that `vlm run` chose (environment `VLM_RUN_ID`), else KFP's job id."""
    return os.environ.get(RUN_ID_VARIABLE, "") or job_id


def code_commit() -> str:
    """Return the commit of this code: `VLM_GIT_COMMIT` (set in images), else git's answer, else nothing."""
    if commit := os.environ.get("VLM_GIT_COMMIT", ""):
        return commit
    folder = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _page(config: RunConfig, run_id: str) -> dict[str, str]:
    """Return the link to the run's page in KFP's UI, where it is known and the run is KFP's."""
    of_kfp = not os.environ.get(RUN_ID_VARIABLE) and config.tracking.kfp_ui
    return {"Pipeline in KFP": run_page(config.tracking.kfp_ui, run_id)} if of_kfp else {}


def _open(config: RunConfig, workspace: Path, run_id: str) -> RunContext:
    tracking_uri = _tracking_uri(config, workspace)
    commit = code_commit()
    settings = config.model_dump(mode="json")
    run = RunFolder(workspace, run_id)
    record = run.record()  # `vlm run` has made it already; a task that is tried again finds its own
    if "pid" not in record:
        run.update_record(name=config.name, started=record.get("started", timestamp()), state="running")
    write_text(run.path / CONFIG_NAME, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    mlflow_run_id = open_pipeline_run(
        tracking_uri,
        config.tracking.experiment,
        config.name,
        run_id,
        workspace,
        settings,
        git_commit=commit,
        started=run.started,
        source=_PIPELINE,
        links={"Report": f"report/{REPORT_FILE}", **_page(config, run_id)},
    )
    context = RunContext(
        run_id=run_id,
        run_name=config.name,
        workspace=workspace,
        tracking_uri=tracking_uri,
        experiment=config.tracking.experiment,
        mlflow_run_id=mlflow_run_id,
        git_commit=commit,
    )
    write_json(run.path / CONTEXT_NAME, context.model_dump(mode="json"))
    for name, evaluation in config.evaluations.items():
        own = config.baselines_of(name)
        earlier = [gate for gate in evaluation.evaluate.gates if gate.baseline not in own]
        find_baselines(context, earlier, name)  # a wrong name must not come up after the training
    return context


def _tracking_uri(config: RunConfig, workspace: Path) -> str:
    if config.tracking.uri in ("none", ""):
        return ""
    if config.tracking.uri == "auto":
        return os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{workspace}/mlflow.db"
    return config.tracking.uri
