"""First and last task of the DAG: one checks the whole configuration and opens the run, the other closes it."""

from typing import NamedTuple

from kfp import dsl

from components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def open_run(
    config: dict,
    job_id: str,
    run_name: str,
    workspace: str,
    data_source: str,
    language_source: str,
    vision_source: str,
    pretrain_iterations: int,
    sft_iterations: int,
    pretrain_global_batch_size: int,
    sft_global_batch_size: int,
    pretrain_learning_rate: float,
    sft_learning_rate: float,
    tensor_parallel: int,
    nodes: int,
    processes_per_node: int,
    queue: str,
    tracking_uri: str,
    experiment: str,
    overrides: list,
) -> NamedTuple(
    "Opened",
    [
        ("context", dict),
        ("data", dict),
        ("weights", dict),
        ("wds_conversion_pretrain", dict),
        ("wds_conversion_sft", dict),
        ("energon_split_pretrain", dict),
        ("energon_split_sft", dict),
        ("weight_conversion_language", dict),
        ("weight_conversion_vision", dict),
        ("combine", dict),
        ("pretrain", dict),
        ("sft", dict),
        ("evaluations", dict),
        ("report", dict),
        ("export", dict),
        ("registry", dict),
        ("cluster", dict),
    ],
):
    """Check every setting of the run before any work starts, and open the run in MLflow.

    Args:
        config: The preset's settings.
        job_id: KFP's id of this run.
        run_name: Name of the run that people see.
        workspace: Root folder of all stage outputs.
        data_source: Where the dataset comes from.
        language_source: Where the language model comes from.
        vision_source: Where the vision tower comes from.
        pretrain_iterations: Optimizer steps of pretraining.
        sft_iterations: Optimizer steps of fine-tuning.
        pretrain_global_batch_size: Samples per step of pretraining.
        sft_global_batch_size: Samples per step of fine-tuning.
        pretrain_learning_rate: Peak learning rate of pretraining.
        sft_learning_rate: Peak learning rate of fine-tuning.
        tensor_parallel: Processes that share one copy of the model.
        nodes: Machines of each training job.
        processes_per_node: Processes on each machine that train or generate, one per GPU.
        queue: Kueue LocalQueue of the training jobs; empty for none.
        tracking_uri: MLflow tracking URI, "auto" or "none".
        experiment: MLflow experiment.
        overrides: Any other settings, as "pretrain.recipe.warmup_fraction=0.02".
    """
    from collections import namedtuple

    from components.stage.shell import reported_errors
    from pipelines.opening import open_pipeline, run_identifier

    parameters = {
        "run_name": run_name,
        "workspace": workspace,
        "data_source": data_source,
        "language_source": language_source,
        "vision_source": vision_source,
        "pretrain_iterations": pretrain_iterations,
        "sft_iterations": sft_iterations,
        "pretrain_global_batch_size": pretrain_global_batch_size,
        "sft_global_batch_size": sft_global_batch_size,
        "pretrain_learning_rate": pretrain_learning_rate,
        "sft_learning_rate": sft_learning_rate,
        "tensor_parallel": tensor_parallel,
        "nodes": nodes,
        "processes_per_node": processes_per_node,
        "queue": queue,
        "tracking_uri": tracking_uri,
        "experiment": experiment,
    }
    with reported_errors():
        opened = open_pipeline(config, parameters, overrides, run_identifier(job_id))
    return namedtuple("Opened", opened)(**opened)


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def close_run(job_id: str, workspace: str, status: dsl.PipelineTaskFinalStatus):
    """Close the run in MLflow however it ended, and report the stages that did not finish.

    Args:
        job_id: KFP's id of this run.
        workspace: Root folder of all stage outputs.
        status: How the run ended, from KFP.
    """
    from pathlib import Path

    from components.stage.shell import reported_errors
    from pipelines.opening import close_pipeline, run_identifier

    with reported_errors():
        close_pipeline(Path(workspace), run_identifier(job_id), status.state)
