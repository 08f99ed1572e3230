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
from components.evaluate.component import evaluate
from components.generate.component import generate
from components.pretrain.component import pretrain
from components.report.component import report
from components.sft.component import sft
from components.wds_conversion.component import wds_conversion
from components.weight_conversion.component import weight_conversion
from pipelines.config import DEFAULT_PRESET, RunConfig, load_preset
from pipelines.open_run import close_run, open_run, ui_default
from pipelines.placement import on_cpu, on_gpu


def build_pipeline(config: RunConfig) -> BaseComponent:
    """Return the pipeline with a configuration's values as the defaults of its UI parameters."""

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
        opened = on_cpu(
            open_run(
                config=config.model_dump(mode="json"),
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
            ),
            config,
        ).outputs
        context = opened["context"]

    return vlm_training
