"""The generation stage: model folder and raw dataset to predictions, a partition at a time."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.context import RunContext
from components.download.task_data import evaluation_data
from components.errors import ConfigurationError
from components.generate.config import GENERATION_PREFIX, GenerateConfig
from components.generate.registry import find_backend
from components.generate.spec import FACTS_FILE, GenerationSpec
from components.stage.runner import StageOutput, StageWork, input_identity, run_stage
from components.storage.atomic import write_text
from components.storage.checksum import content_key, sha256_file
from components.tasks.loading import load_samples, load_task, task_identity
from components.tasks.task import Task

if TYPE_CHECKING:
    from components.generate.kept import KeptAnswerer

VERSION = 4


def run_generate(
    context: RunContext,
    config: GenerateConfig,
    model: Path,
    raw: Path,
    partition: int,
    name: str = "",
    kept: "KeptAnswerer | None" = None,
) -> StageOutput:
    """Generate the predictions of one partition.

    Args:
        context: The pipeline run.
        config: What is asked and how.
        model: Finished folder of the model: of pretraining, SFT or combine, an export, or a published model.
        raw: Raw dataset folder with the task's ground truth.
        partition: Number of the partition, from 0 to `config.partitions - 1`.
        name: Name of the evaluation that this is for, the task's by default: two models may answer one task in a run.
        kept: Opens the model, or has it open from another task; None to open it for this one alone.

    Returns:
        A folder with `predictions.jsonl`: one object per sample and control.

    Raises:
        ConfigurationError: The task is unknown, there is no such partition, or the settings don't fit the kind of model.
        InputError: Dataset or model folder are not as expected.
    """
    if not 0 <= partition < config.partitions:
        raise ConfigurationError(
            f"Partition {partition} does not exist: partitions is {config.partitions}, they count from 0."
        )
    task = load_task(config.task)
    find_backend(model, config)
    data = evaluation_data(raw, task)
    generation = generation_hash(config, task, input_identity(model), data.identity)

    def body(work: StageWork) -> dict[str, Any]:
        return _generate(config, task, model, raw, partition, generation, work, kept)

    return run_stage(
        context,
        stage=f"{GENERATION_PREFIX}{name or task.name}",
        version=VERSION,
        inputs={
            "model": model,
            "raw": data,
            "task": task_identity(task),
            "partition": f"{partition} of {config.partitions}",
        },
        settings=config.deciding,
        body=body,
    )


def generation_hash(config: GenerateConfig, task: Task, model: str, raw: str) -> str:
    """Return what the predictions of all partitions of one generation have in common, as 16 hexadecimal digits.

    Args:
        config: The settings.
        task: The task.
        model: Identity of the model folder.
        raw: Identity of the task's `evaluation_data`.
    """
    return content_key(
        {"task": task_identity(task), "model": model, "raw": raw, **config.deciding.model_dump(mode="json")}
    )


def _generate(
    config: GenerateConfig,
    task: Task,
    model: Path,
    raw: Path,
    partition: int,
    generation: str,
    work: StageWork,
    kept: "KeptAnswerer | None",
) -> dict[str, Any]:
    from components.generate.journal import JOURNAL_FOLDER
    from components.stage.provenance import GENERATING, library_versions

    dataset_size = len(load_samples(raw, task))
    spec = GenerationSpec(
        config=config,
        task=task,
        model=model,
        raw=raw,
        partition=partition,
        generation=generation,
        output=work.folder,
        progress_stage=work.progress.stage,
        progress_file=work.progress.path,
    )
    if config.processes == 1:
        # Imported where this process generates itself.
        from components.generate.generation import answer_partition, generate_partition

        if kept is None:
            generate_partition(spec)
        else:
            answer_partition(spec, kept.of(model, config))
    else:
        _generate_in_processes(spec, work)
    shutil.rmtree(work.folder / JOURNAL_FOLDER)
    expected = min(dataset_size, config.limit or dataset_size)
    return {
        "task": task_identity(task),
        "dataset": sha256_file(raw / task.dataset),
        "generation": generation,
        "controls": list(config.controls),
        "partition": partition,
        "partitions": config.partitions,
        "samples": len(range(partition, expected, config.partitions)),
        "samples_expected": expected,
        "samples_dataset": dataset_size,
        "versions": library_versions(GENERATING),
        **json.loads((work.folder / FACTS_FILE).read_text(encoding="utf-8")),
    }


def _generate_in_processes(spec: GenerationSpec, work: StageWork) -> None:
    """Generate with several processes on this machine."""
    from components.generate.job_progress import GenerationProgress
    from components.generate.journal import JOURNAL_FOLDER
    from components.launch.config import LaunchConfig
    from components.launch.job import TrainingJob
    from components.launch.run import run_job

    launch_folder = work.folder / "launch"
    shutil.rmtree(launch_folder, ignore_errors=True)  # another run counts its own attempts
    path = launch_folder / "spec.json"
    write_text(path, spec.model_dump_json(indent=2))
    config = spec.config
    run_job(
        TrainingJob(
            name=f"generate-{spec.task.name}-{spec.partition}",
            module="components.generate.worker",
            arguments=[str(path)],
            log_folder=launch_folder / "logs",
            config=LaunchConfig(processes_per_node=config.processes, tensor_parallel=config.tensor_parallel),
            progress=GenerationProgress(work.folder / JOURNAL_FOLDER),
        )
    )
    shutil.rmtree(launch_folder)
