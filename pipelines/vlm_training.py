"""The DAG: from raw data and raw weights to an evaluated vision-language model.

Compile it with `vlm compile --preset NAME -o FILE`, or with `kfp dsl compile --py pipelines/vlm_training.py` (the preset
then comes from the environment variable `VLM_PRESET`).
"""

import os
from collections.abc import Callable
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.pipeline_channel import PipelineChannel

from components.combine.component import combine
from components.download.component import download_dataset, download_weights
from components.energon_split.component import energon_split
from components.evaluate.component import evaluate, quality_gate
from components.export.component import export
from components.generate.component import generate
from components.launch.config import Backend
from components.pretrain.component import pretrain
from components.report.component import report
from components.sft.component import sft
from components.wds_conversion.component import wds_conversion, wds_conversion_merge, wds_conversion_part
from components.weight_conversion.component import weight_conversion
from pipelines.config import DEFAULT_PRESET, RunConfig, TrainingStage, load_preset
from pipelines.open_run import close_run, open_run
from pipelines.opening import stored_settings, ui_default
from pipelines.placement import on_cpu, on_gpu, on_launcher


def build_pipeline(config: RunConfig) -> BaseComponent:
    """Return the pipeline with a configuration's values as the defaults of its UI parameters."""
    convert_pretrain = build_conversion(config, "pretrain", config.wds_conversion.pretrain.parallel_tasks)
    convert_sft = build_conversion(config, "sft", config.wds_conversion.sft.parallel_tasks)
    examinations = {
        name: _build_examination(config, name, evaluation.generate.partitions)
        for name, evaluation in config.evaluations.items()
    }

    def cpu(task: dsl.PipelineTask, label: str = "") -> dsl.PipelineTask:
        return on_cpu(task, config, label)

    def training(task: dsl.PipelineTask, backend: Backend) -> dsl.PipelineTask:
        return on_gpu(task, config) if backend == "local" else on_launcher(task, config)

    @dsl.pipeline(
        name="vlm-training",
        display_name=f"VLM training: {config.name}",
        description="Trains and evaluates a vision-language model: data and weights meet in pretraining, "
        "fine-tuning follows, and every score comes with the same score on pictures the model could not see.",
    )
    def vlm_training(
        run_name: str = ui_default(config, "run_name"),
        workspace: str = ui_default(config, "workspace"),
        data_source: str = ui_default(config, "data_source"),
        language_source: str = ui_default(config, "language_source"),
        vision_source: str = ui_default(config, "vision_source"),
        pretrain_iterations: int = ui_default(config, "pretrain_iterations"),
        sft_iterations: int = ui_default(config, "sft_iterations"),
        pretrain_global_batch_size: int = ui_default(config, "pretrain_global_batch_size"),
        sft_global_batch_size: int = ui_default(config, "sft_global_batch_size"),
        pretrain_learning_rate: float = ui_default(config, "pretrain_learning_rate"),
        sft_learning_rate: float = ui_default(config, "sft_learning_rate"),
        tensor_parallel: int = ui_default(config, "tensor_parallel"),
        nodes: int = ui_default(config, "nodes"),
        processes_per_node: int = ui_default(config, "processes_per_node"),
        queue: str = ui_default(config, "queue"),
        tracking_uri: str = ui_default(config, "tracking_uri"),
        experiment: str = ui_default(config, "experiment"),
        overrides: list = [],  # noqa: B006  (KFP reads the default, nothing writes to it)
    ):
        """Train and evaluate a vision-language model.

        Args:
            run_name: Name of the run that people see, also in MLflow.
            workspace: Root folder of all stage outputs; on a cluster the mount path of the volume.
            data_source: Where the dataset comes from, as "hf://owner/name" or "file:///folder".
            language_source: Where the language model comes from, likewise.
            vision_source: Where the vision tower comes from, likewise.
            pretrain_iterations: Optimizer steps of pretraining.
            sft_iterations: Optimizer steps of fine-tuning.
            pretrain_global_batch_size: Samples per step of pretraining over all GPUs.
            sft_global_batch_size: Samples per step of fine-tuning over all GPUs.
            pretrain_learning_rate: Peak learning rate of pretraining.
            sft_learning_rate: Peak learning rate of fine-tuning.
            tensor_parallel: Processes that share one copy of the model; a divisor of processes_per_node.
            nodes: Machines of each training job; more than one needs the backend pytorchjob or trainjob.
            processes_per_node: Processes on each machine that train or generate, one per GPU.
            queue: Kueue LocalQueue that admits the training jobs; empty for none.
            tracking_uri: MLflow tracking server; "auto" takes the environment's, "none" switches tracking off.
            experiment: MLflow experiment.
            overrides: Any other settings of the preset, as ["pretrain.recipe.warmup_fraction=0.02"].
        """
        closing = cpu(close_run(job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, workspace=workspace), "close run")
        with dsl.ExitHandler(closing, name="train and evaluate"):
            run = cpu(
                open_run(
                    config=stored_settings(config),
                    job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
                    run_name=run_name,
                    workspace=workspace,
                    data_source=data_source,
                    language_source=language_source,
                    vision_source=vision_source,
                    pretrain_iterations=pretrain_iterations,
                    sft_iterations=sft_iterations,
                    pretrain_global_batch_size=pretrain_global_batch_size,
                    sft_global_batch_size=sft_global_batch_size,
                    pretrain_learning_rate=pretrain_learning_rate,
                    sft_learning_rate=sft_learning_rate,
                    tensor_parallel=tensor_parallel,
                    nodes=nodes,
                    processes_per_node=processes_per_node,
                    queue=queue,
                    tracking_uri=tracking_uri,
                    experiment=experiment,
                    overrides=overrides,
                )
            ).outputs
            context = run["context"]

            def examine(stage: TrainingStage, model: PipelineChannel) -> list[PipelineChannel]:
                """Ask a training stage's model everything that it is to be asked; return where the scores lie."""
                return [
                    examinations[name](context=context, evaluations=run["evaluations"], model=model, raw=raw)
                    .set_caching_options(False)
                    .output
                    for name in config.evaluations_of(stage)
                ]

            # Data.
            raw = cpu(download_dataset(context=context, settings=run["data"])).outputs["raw"]
            captions = convert_pretrain(context=context, settings=run["wds_conversion_pretrain"], raw=raw)
            conversations = convert_sft(context=context, settings=run["wds_conversion_sft"], raw=raw)
            pretrain_data = cpu(
                energon_split(context=context, settings=run["energon_split_pretrain"], shards=captions),
                "energon_split: pretrain",
            ).outputs["dataset"]
            sft_data = cpu(
                energon_split(context=context, settings=run["energon_split_sft"], shards=conversations),
                "energon_split: sft",
            ).outputs["dataset"]

            # Weights.
            weights = cpu(download_weights(context=context, settings=run["weights"], raw=raw)).outputs["weights"]
            language = cpu(
                weight_conversion(context=context, settings=run["weight_conversion_language"], weights=weights),
                "weight_conversion: language",
            ).outputs["converted"]
            vision = cpu(
                weight_conversion(context=context, settings=run["weight_conversion_vision"], weights=weights),
                "weight_conversion: vision",
            ).outputs["converted"]
            combined = cpu(combine(context=context, settings=run["combine"], language=language, vision=vision)).outputs[
                "model"
            ]

            # First training stage, and what it has learnt.
            pretrained = training(
                pretrain(
                    context=context,
                    settings=run["pretrain"],
                    cluster=run["cluster"],
                    model=combined,
                    dataset=pretrain_data,
                ),
                config.pretrain.launch.backend,
            ).outputs["trained"]
            pretrained_scores = examine("pretrain", pretrained)

            # Second training stage, and what it has learnt.
            tuned = training(
                sft(
                    context=context,
                    settings=run["sft"],
                    cluster=run["cluster"],
                    model=pretrained,
                    dataset=sft_data,
                ),
                config.sft.launch.backend,
            ).outputs["trained"]
            tuned_scores = examine("sft", tuned)

            # What came out. A gate that is missed fails the run when there are a report and an export to look at.
            written = cpu(
                report(
                    context=context,
                    settings=run["report"],
                    pretrain=pretrained,
                    sft=tuned,
                    evaluations=[*pretrained_scores, *tuned_scores],
                )
            )
            exported = cpu(export(context=context, settings=run["export"], model=tuned, evaluations=tuned_scores))
            cpu(
                quality_gate(
                    context=context,
                    settings=run["registry"],
                    evaluations=[*pretrained_scores, *tuned_scores],
                    exported=exported.outputs["exported"],
                )
            ).after(written)

    return vlm_training


def build_conversion(config: RunConfig, use: str, tasks: int) -> Callable[..., PipelineChannel]:
    """Return what adds a conversion to the pipeline and gives its shards: one task, or several and one that joins them."""
    label = f"wds_conversion: {use}"

    def in_one_task(**inputs: Any) -> PipelineChannel:
        return on_cpu(wds_conversion(**inputs), config, label).outputs["shards"]

    if tasks == 1:
        return in_one_task

    # A pipeline of its own for the same reason as the examination.
    @dsl.pipeline(name=f"wds-conversion-{use}", description="Converts a dataset in several tasks side by side.")
    def parallel_conversion(context: dict, settings: dict, raw: dsl.Input[dsl.Dataset]) -> dsl.Dataset:
        with dsl.ParallelFor(list(range(tasks)), name="parts") as part:
            written = on_cpu(wds_conversion_part(context=context, settings=settings, part=part, raw=raw), config, label)
        parts = dsl.Collected(written.outputs["shards"])
        joined = on_cpu(
            wds_conversion_merge(context=context, settings=settings, parts=parts, raw=raw), config, f"{label}, joined"
        )
        return joined.outputs["shards"]

    def in_several_tasks(**inputs: Any) -> PipelineChannel:
        return parallel_conversion(**inputs).set_caching_options(False).output

    return in_several_tasks


def _build_examination(config: RunConfig, name: str, partitions: int) -> BaseComponent:
    """Return the sub-pipeline that generates in partitions, side by side, and scores all of them together.

    It is a pipeline of its own because KFP's local runner hands the loop's item to every parameter of a loop that is
    the output of a task; inputs of a sub-pipeline reach the loop as they are.
    """

    @dsl.pipeline(
        name=name.replace("_", "-"), description="Generates with a model in partitions and scores what it said."
    )
    def examination(context: dict, evaluations: dict, model: dsl.Input[dsl.Model], raw: dsl.Input[dsl.Dataset]) -> str:
        with dsl.ParallelFor(list(range(partitions)), name="partitions") as partition:
            generated = on_gpu(
                generate(
                    context=context, evaluations=evaluations, name=name, partition=partition, model=model, raw=raw
                ),
                config,
                f"generate: {name}",
            )
        scored = on_cpu(
            evaluate(
                context=context,
                evaluations=evaluations,
                name=name,
                predictions=dsl.Collected(generated.outputs["predictions"]),
                model=model,
                raw=raw,
            ),
            config,
            f"evaluate: {name}",
        )
        return scored.outputs["folder"]

    return examination


# What `kfp dsl compile --py` finds.
pipeline = build_pipeline(load_preset(os.environ.get("VLM_PRESET", DEFAULT_PRESET)))
