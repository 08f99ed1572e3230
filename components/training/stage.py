"""Runs a training stage: writes the spec, launches the job, collects what it left."""

import datetime
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.context import RunContext
from components.errors import StageError
from components.launch.config import ClusterConfig
from components.launch.job import TrainingJob
from components.launch.run import run_job
from components.stage.manifest import Manifest, list_files, read_manifest, write_manifest
from components.stage.runner import StageOutput, StageWork, input_identity, run_stage
from components.storage.atomic import write_text
from components.training.checkpoint.layout import KEPT_FOLDER
from components.training.config import TrainingConfig
from components.training.job_progress import TrainingProgress
from components.training.spec import TrainingSpec
from components.training.summary import TRAINING_FOLDER, is_finished, read_summary

VERSION = 2
_LAUNCH_FOLDER = "launch"


def run_training(
    context: RunContext,
    stage: str,
    config: TrainingConfig,
    model: Path,
    dataset: Path,
    cluster: ClusterConfig | None = None,
) -> StageOutput:
    """Train `model` on `dataset` and return the trained model folder.

    A run that was stopped goes on from its newest whole checkpoint. Checkpoints that `recipe.keep_every` and
    `recipe.keep_best` keep stay below `kept/`, each a finished model folder of its own. The launch settings do not enter the content key: the
    same training may go on with another tensor-parallel size.

    Args:
        context: The pipeline run.
        stage: "pretrain" or "sft".
        config: Recipe and launch.
        model: Model folder to start from.
        dataset: Output folder of the energon split.
        cluster: What the pods of a training job get; the local backend needs none.

    Raises:
        ConfigurationError: The launch settings don't fit the backend, or the cluster does not take the job.
        StageError: The job failed, or an input folder is not finished.
    """

    def body(work: StageWork) -> Mapping[str, Any]:
        # A training that finished is not done again because its manifest is missing: hashing takes minutes, too.
        if not is_finished(work.folder):
            _train(context, stage, config, model, dataset, cluster, work)
        facts = _collect(work.folder)
        _finish_kept(work, stage, config, {"model": input_identity(model), "dataset": input_identity(dataset)})
        return facts

    _check_dataset(dataset, stage)
    return run_stage(
        context,
        stage=stage,
        version=VERSION,
        inputs={"model": model, "dataset": dataset},
        settings=config.recipe,
        body=body,
        datasets={"dataset": "training"},
        makes_model=True,
    )


def _train(
    context: RunContext,
    stage: str,
    config: TrainingConfig,
    model: Path,
    dataset: Path,
    cluster: ClusterConfig | None,
    work: StageWork,
) -> None:
    """Write the spec and run the job."""
    spec = TrainingSpec(
        stage=stage,
        recipe=config.recipe,
        tensor_parallel=config.launch.tensor_parallel,
        model_folder=model,
        dataset_folder=dataset,
        output_folder=work.folder,
        memory=config.memory,
        progress_file=work.progress.path,
        journal=work.tracker.folder,
    )
    write_text(_spec_path(work.folder), spec.model_dump_json(indent=2) + "\n")
    work.tracker.log_params({"launch": config.launch.model_dump(), "memory": config.memory.model_dump()})
    progress = TrainingProgress(work.folder, work.progress.path)
    run_job(replace(training_job(context, stage, config, work.folder, cluster), progress=progress))


def training_job(
    context: RunContext, stage: str, config: TrainingConfig, folder: Path, cluster: ClusterConfig | None = None
) -> TrainingJob:
    """Return the job that trains into a stage folder.

    Args:
        context: The pipeline run.
        stage: "pretrain" or "sft".
        config: Recipe and launch.
        folder: The stage folder; its name is the work's content key.
        cluster: What the pods of a training job get.
    """
    return TrainingJob(
        name=stage,
        module="components.training.worker",
        arguments=[str(_spec_path(folder))],
        log_folder=folder / _LAUNCH_FOLDER / "logs",
        config=config.launch,
        key=folder.name,
        run_id=context.run_id,
        workspace=context.workspace,
        cluster=cluster or ClusterConfig(),
    )


def _spec_path(folder: Path) -> Path:
    return folder / _LAUNCH_FOLDER / "spec.json"


def _collect(folder: Path) -> Mapping[str, Any]:
    """Remove what only an unfinished training needs and return the facts."""
    summary = read_summary(folder)
    shutil.rmtree(folder / TRAINING_FOLDER, ignore_errors=True)
    shutil.rmtree(folder / _LAUNCH_FOLDER, ignore_errors=True)
    return summary


def _finish_kept(work: StageWork, stage: str, config: TrainingConfig, inputs: dict[str, str]) -> None:
    """Make finished stage folders of the checkpoints that stay, so that every later stage takes them."""
    for folder in sorted((work.folder / KEPT_FOLDER).glob("step_*")):
        files = list_files(folder)
        manifest = Manifest(
            stage=stage,
            version=VERSION,
            key=f"{work.folder.name}-{folder.name}",
            inputs=inputs,
            settings=config.recipe.model_dump(mode="json"),
            facts={"step": int(folder.name.removeprefix("step_"))},
            files=files,
            started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            duration_s=0.0,
        )
        write_manifest(folder, manifest)
        prefix = folder.relative_to(work.folder).as_posix()
        work.known_files.update({f"{prefix}/{name}": entry for name, entry in files.items()})


def _check_dataset(dataset: Path, stage: str) -> None:
    facts = read_manifest(dataset).facts
    if "splits" in facts and not facts["splits"].get("train"):
        raise StageError(f"{dataset} has no training samples for {stage}: its train split is empty.")
