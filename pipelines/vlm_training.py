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
from pipelines.open_run import close_run, open_run, stored_settings, ui_default
from pipelines.placement import on_cpu, on_gpu


def build_pipeline(config: RunConfig) -> BaseComponent:
    """Return the pipeline with a configuration's values as the defaults of its UI parameters."""
    caption_partitions = list(range(config.generate.captioning.partitions))
    answer_partitions = list(range(config.generate.multiple_choice.partitions))

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
        weights_source: str = ui_default(config, "weights_source"),
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
                weights_source=weights_source,
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
        raw = cpu(download_dataset(context=context, settings=run["dataset"])).outputs["raw"]
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
        with dsl.ParallelFor(caption_partitions, name="captioning") as partition:
            captioned = gpu(
                generate(
                    context=context, settings=run["generate_captioning"], partition=partition, model=pretrained, raw=raw
                ),
                "generate: captioning",
            ).outputs["predictions"]
        captioning_scores = cpu(
            evaluate(
                context=context,
                settings=run["evaluate_captioning"],
                predictions=dsl.Collected(captioned),
                model=pretrained,
                raw=raw,
            ),
            "evaluate: captioning",
        ).outputs["scores"]

        # Second training stage, and what it has learnt.
        tuned = gpu(sft(context=context, settings=run["sft"], model=pretrained, dataset=sft_data)).outputs["trained"]
        with dsl.ParallelFor(answer_partitions, name="multiple-choice") as partition:
            answered = gpu(
                generate(
                    context=context, settings=run["generate_multiple_choice"], partition=partition, model=tuned, raw=raw
                ),
                "generate: multiple choice",
            ).outputs["predictions"]
        multiple_choice_scores = cpu(
            evaluate(
                context=context,
                settings=run["evaluate_multiple_choice"],
                predictions=dsl.Collected(answered),
                model=tuned,
                raw=raw,
            ),
            "evaluate: multiple choice",
        ).outputs["scores"]

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


# What `kfp dsl compile --py` finds.
pipeline = build_pipeline(load_preset(os.environ.get("VLM_PRESET", DEFAULT_PRESET)))
