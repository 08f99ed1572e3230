"""Opens a pipeline run: settles its configuration, opens it in MLflow, splits the configuration by stage.

Apart from the KFP tasks in open_run.py, since inside a running task KFP's decorators don't exist.
"""

import datetime
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from components.context import RunContext
from components.errors import ConfigurationError
from components.evaluate.baseline import find_baselines
from components.progress import Progress, progress_folder
from components.runs.folder import CONFIG_NAME, CONTEXT_NAME, RUN_ID_VARIABLE, RunFolder
from components.storage.atomic import write_json, write_text
from components.tasks.loading import load_task
from components.tracking.tracker import close_pipeline_run, open_pipeline_run
from pipelines.config import RunConfig, apply_overrides, validate

# What a person changes in the UI, and the settings behind it; `*` stands for every evaluation.
UI_PARAMETERS: dict[str, tuple[str, ...]] = {
    "run_name": ("name",),
    "workspace": ("workspace",),
    "data_source": ("data.source",),
    "language_source": ("weights.language_source",),
    "vision_source": ("weights.vision_source",),
    "pretrain_iterations": ("pretrain.recipe.iterations",),
    "sft_iterations": ("sft.recipe.iterations",),
    "pretrain_global_batch_size": ("pretrain.recipe.global_batch_size",),
    "sft_global_batch_size": ("sft.recipe.global_batch_size",),
    "pretrain_learning_rate": ("pretrain.recipe.learning_rate",),
    "sft_learning_rate": ("sft.recipe.learning_rate",),
    "tensor_parallel": (
        "pretrain.launch.tensor_parallel",
        "sft.launch.tensor_parallel",
        "evaluations.*.generate.tensor_parallel",
    ),
    "nodes": ("pretrain.launch.nodes", "sft.launch.nodes"),
    "processes_per_node": (
        "pretrain.launch.processes_per_node",
        "sft.launch.processes_per_node",
        "evaluations.*.generate.processes_per_node",
    ),
    "queue": ("cluster.job.queue",),
    "tracking_uri": ("tracking.uri",),
    "experiment": ("tracking.experiment",),
}

_MLFLOW_STATUS = {"SUCCEEDED": "FINISHED", "COMPLETE": "FINISHED", "CANCELLED": "KILLED"}
_RUN_STATE = {"FINISHED": "succeeded", "FAILED": "failed", "KILLED": "interrupted"}

# Numbers of tasks: the compiled pipeline has them, a run can't change them.
COMPILED_SETTINGS = (
    "wds_conversion.pretrain.parallel_tasks",
    "wds_conversion.sft.parallel_tasks",
)


def open_pipeline(
    config: Mapping[str, Any], parameters: Mapping[str, Any], overrides: Sequence[str], run_id: str
) -> dict[str, Any]:
    """Settle the configuration of a run, open the run, and split the configuration into what each stage use gets.

    Args:
        config: The preset's settings.
        parameters: Values of `UI_PARAMETERS`.
        overrides: `key=value` for anything else; they have the last word.
        run_id: Identifier of the pipeline run.

    Returns:
        Output name of `open_run` to value.

    Raises:
        ConfigurationError: A setting is unknown or wrong, or a gate's baseline does not exist.
        StageError: The tracking server can't be reached.
    """
    settled = settle(config, parameters, overrides)
    workspace = settled.workspace.absolute()
    progress = Progress("open_run", progress_folder(workspace, run_id) / "open_run.json")
    progress.start("checking settings", None, "")
    try:
        context = _open(settled, workspace, run_id)
    except Exception as error:
        progress.finish("failed", str(error))
        raise
    progress.finish("done")
    return stage_settings(settled, context)


def settle(config: Mapping[str, Any], parameters: Mapping[str, Any], overrides: Sequence[str]) -> RunConfig:
    """Return the validated configuration of a run.

    A parameter left at its preset's value changes nothing, so that settings behind one parameter may differ.

    Raises:
        ConfigurationError: A setting is unknown or wrong, or the file of a task is not here.
    """
    preset = validate(config, "this pipeline's preset")
    tree = preset.model_dump(mode="json")
    for name, value in parameters.items():
        if value != ui_default(preset, name):
            for key in UI_PARAMETERS[name]:
                for *sections, last in _expanded(key, preset):
                    node = tree
                    for section in sections:
                        node = node[section]
                    node[last] = value
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
    for key in COMPILED_SETTINGS:
        if _value(settled, key) != _value(preset, key):
            raise ConfigurationError(
                f"{key} is the number of tasks in the compiled pipeline and can't change in a run. "
                f"Compile again: vlm compile --set {key}=..."
            )
    if _examined(settled) != _examined(preset):
        raise ConfigurationError(
            "The names of the evaluations, their model and their generate.partitions are tasks of the compiled pipeline and "
            "can't change in a run. Compile again: vlm compile --set evaluations...=..."
        )
    for stage in ("pretrain", "sft"):
        if getattr(settled, stage).launch.backend != getattr(preset, stage).launch.backend:
            raise ConfigurationError(
                f"{stage}.launch.backend decides where the compiled pipeline's tasks run and can't change in a run. "
                f"Compile again: vlm compile --set {stage}.launch.backend=..."
            )
    for name in type(settled.cluster).model_fields:
        if name != "job" and getattr(settled.cluster, name) != getattr(preset.cluster, name):
            raise ConfigurationError(
                f"cluster.{name} is part of the compiled pipeline and can't change in a run (cluster.job can). "
                f"Compile again: vlm compile --set cluster.{name}=..."
            )


def _examined(config: RunConfig) -> dict[str, tuple[str, int]]:
    """Return what of the evaluations decides the tasks of the pipeline."""
    return {name: (item.model, item.generate.partitions) for name, item in config.evaluations.items()}


def _expanded(key: str, config: RunConfig) -> list[list[str]]:
    """Return the parts of a dotted key, once for every evaluation where it has a `*`."""
    parts = key.split(".")
    names = list(config.evaluations) if "*" in parts else [""]
    return [[name if part == "*" else part for part in parts] for name in names]


def ui_default(config: RunConfig, parameter: str) -> Any:
    """Return a UI parameter's default: the preset's value."""
    return _value(config, UI_PARAMETERS[parameter][0])


def _value(config: RunConfig, key: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for name in key.split("."):
        value = value[name]
    return value


def stage_settings(config: RunConfig, context: RunContext) -> dict[str, Any]:
    """Return what each stage use of the DAG gets, by the names of `open_run`'s outputs."""
    tree = stored_settings(config)
    outputs: dict[str, Any] = {"context": stored_settings(context)}
    for stage in (
        "data",
        "weights",
        "combine",
        "pretrain",
        "sft",
        "evaluations",
        "report",
        "export",
        "registry",
        "cluster",
    ):
        outputs[stage] = tree[stage]
    for stage in ("wds_conversion", "energon_split", "weight_conversion"):
        for use, settings in tree[stage].items():
            outputs[f"{stage}_{use}"] = settings
    return outputs


def stored_settings(config: BaseModel) -> dict[str, Any]:
    """Return settings as KFP can carry them: JSON without nulls (whose settings have null as their default)."""
    return config.model_dump(mode="json", exclude_none=True)


def close_pipeline(workspace: Path, run_id: str, state: str) -> None:
    """End a run in MLflow as it has ended in KFP, and say what became of its stages.

    Args:
        workspace: Root folder of all stage outputs.
        run_id: Identifier of the pipeline run.
        state: KFP's final state: "SUCCEEDED" ("COMPLETE" on a cluster), "FAILED" or "CANCELLED".
    """
    run = RunFolder(workspace.absolute(), run_id)
    rows = run.stages(over=True)
    finished = sum(row.state in ("done", "reused") for row in rows)
    print(f"run {run_id} {state.lower()}: {finished} stages finished", flush=True)
    for row in rows:
        if row.state in ("failed", "interrupted"):
            print(f"{row.stage} {row.state}: {row.message}", flush=True)
    context = run.context()  # empty when open_run has failed: then there is no run in MLflow
    status = _MLFLOW_STATUS.get(state, "FAILED")
    if "pid" not in run.record():  # `vlm run` keeps the record of its own runs
        ended = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        run.update_record(state=_RUN_STATE[status], ended=ended)
    close_pipeline_run(context.get("tracking_uri", ""), context.get("mlflow_run_id", ""), status)


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


def _open(config: RunConfig, workspace: Path, run_id: str) -> RunContext:
    tracking_uri = _tracking_uri(config, workspace)
    commit = code_commit()
    settings = config.model_dump(mode="json")
    run = RunFolder(workspace, run_id)
    if not run.record():  # `vlm run` has made it already; a task that is tried again finds its own
        now = datetime.datetime.now(datetime.UTC)
        run.update_record(name=config.name, started=now.isoformat(timespec="microseconds"), state="running")
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
        find_baselines(context, evaluation.evaluate.gates, name)  # a wrong name must not come up after the training
    return context


def _tracking_uri(config: RunConfig, workspace: Path) -> str:
    if config.tracking.uri in ("none", ""):
        return ""
    if config.tracking.uri == "auto":
        return os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{workspace}/mlflow.db"
    return config.tracking.uri
