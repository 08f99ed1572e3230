"""The DAG: from raw data and raw weights to an evaluated vision-language model.

Compile it with `vlm compile --preset NAME -o FILE`, or with `kfp dsl compile --py pipelines/vlm_training.py` (the preset
then comes from the environment variable `VLM_PRESET`).
"""

import os

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.combine.component import combine
from components.download.component import download_dataset, download_weights
from components.energon_split.component import energon_split
from components.evaluate.component import evaluate, quality_gate
from components.generate.component import generate
from components.pretrain.component import pretrain
from components.report.component import report
from components.sft.component import sft
from components.wds_conversion.component import wds_conversion
from components.weight_conversion.component import weight_conversion
from pipelines.config import DEFAULT_PRESET, RunConfig, load_preset
from pipelines.open_run import close_run, open_run
from pipelines.opening import stored_settings, ui_default
from pipelines.placement import on_cpu, on_gpu


def build_pipeline(config: RunConfig) -> BaseComponent:
    """Return the pipeline with a configuration's values as the defaults of its UI parameters."""
    examine_captioning = _build_examination(config, "captioning", config.generate.captioning.partitions)
    examine_multiple_choice = _build_examination(config, "multiple-choice", config.generate.multiple_choice.partitions)

    def cpu(task: dsl.PipelineTask, label: str = "") -> dsl.PipelineTask:
        return on_cpu(task, config, label)

    def gpu(task: dsl.PipelineTask, label: str = "") -> dsl.PipelineTask:
        return on_gpu(task, config, label)

    @dsl.pipeline(
        name="vlm-training",
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
        tracking_uri: str = ui_default(config, "tracking_uri"),
        experiment: str = ui_default(config, "experiment"),
        overrides: list = [],  # noqa: B006  (KFP reads the default, nothing writes to it)
    ):
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
                tracking_uri=tracking_uri,
                experiment=experiment,
                overrides=overrides,
            )
        ).outputs
        context = run["context"]

        # Data.
        raw = cpu(download_dataset(context=context, settings=run["data"])).outputs["raw"]
        captions = cpu(
            wds_conversion(context=context, settings=run["wds_conversion_pretrain"], raw=raw),
            "wds_conversion: pretrain",
        ).outputs["shards"]
        conversations = cpu(
            wds_conversion(context=context, settings=run["wds_conversion_sft"], raw=raw),
            "wds_conversion: sft",
        ).outputs["shards"]
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
        pretrained = gpu(
            pretrain(context=context, settings=run["pretrain"], model=combined, dataset=pretrain_data)
        ).outputs["trained"]
        captioning_scores = (
            examine_captioning(
                context=context,
                generate_settings=run["generate_captioning"],
                evaluate_settings=run["evaluate_captioning"],
                model=pretrained,
                raw=raw,
            )
            .set_caching_options(False)
            .output
        )

        # Second training stage, and what it has learnt.
        tuned = gpu(sft(context=context, settings=run["sft"], model=pretrained, dataset=sft_data)).outputs["trained"]
        multiple_choice_scores = (
            examine_multiple_choice(
                context=context,
                generate_settings=run["generate_multiple_choice"],
                evaluate_settings=run["evaluate_multiple_choice"],
                model=tuned,
                raw=raw,
            )
            .set_caching_options(False)
            .output
        )

        # What came out. A gate that is missed fails the run when there is a report to look at.
        written = cpu(
            report(
                context=context,
                settings=run["report"],
                pretrain=pretrained,
                sft=tuned,
                captioning=captioning_scores,
                multiple_choice=multiple_choice_scores,
            )
        )
        judged = cpu(quality_gate(captioning=captioning_scores, multiple_choice=multiple_choice_scores)).after(written)
        cpu(close_run(context=context)).after(judged)

    return vlm_training


def _build_examination(config: RunConfig, name: str, partitions: int) -> BaseComponent:
    """Return the sub-pipeline that generates in partitions, side by side, and scores all of them together.

    It is a pipeline of its own because KFP's local runner hands the loop's item to every parameter of a loop that is
    the output of a task; inputs of a sub-pipeline reach the loop as they are.
    """

    @dsl.pipeline(name=name, description="Generates with a model in partitions and scores what it said.")
    def examination(
        context: dict,
        generate_settings: dict,
        evaluate_settings: dict,
        model: dsl.Input[dsl.Model],
        raw: dsl.Input[dsl.Dataset],
    ) -> dsl.Artifact:
        with dsl.ParallelFor(list(range(partitions)), name="partitions") as partition:
            generated = on_gpu(
                generate(context=context, settings=generate_settings, partition=partition, model=model, raw=raw), config
            )
        scored = on_cpu(
            evaluate(
                context=context,
                settings=evaluate_settings,
                predictions=dsl.Collected(generated.outputs["predictions"]),
                model=model,
                raw=raw,
            ),
            config,
        )
        return scored.outputs["scores"]

    return examination


# What `kfp dsl compile --py` finds.
pipeline = build_pipeline(load_preset(os.environ.get("VLM_PRESET", DEFAULT_PRESET)))
