"""The DAG: from raw data and raw weights to an evaluated vision-language model.

Stages are called by their names in the table (`stages.py`), which says what they are and where they run. The parameters
are those of `parameters.py`.

Compile it with `vlm compile --preset NAME -o FILE`, or with `kfp dsl compile --py pipelines/vlm_training.py` (the preset
then comes from the environment variable `VLM_PRESET`).
"""

import os
from collections.abc import Callable
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.pipeline_channel import PipelineChannel

from components.evaluate.component import evaluate
from components.generate.component import generate
from components.wds_conversion.component import wds_conversion, wds_conversion_merge, wds_conversion_part
from pipelines.config import RunConfig
from pipelines.open_run import close_run, open_run
from pipelines.opening import stored_settings
from pipelines.parameters import takes_parameters
from pipelines.placement import place
from pipelines.preset_files import DEFAULT_PRESET, load_preset
from pipelines.stages import Stage, training_stages

STAGES_LABEL = "train and evaluate"  # of the box in KFP's UI that holds the stages


def build_pipeline(config: RunConfig) -> BaseComponent:
    """Return the pipeline with a configuration's values as the defaults of its UI parameters."""
    stages = {stage.name: stage for stage in training_stages(config)}
    convert_pretrain = build_conversion(config, stages["wds_conversion/pretrain"])
    convert_sft = build_conversion(config, stages["wds_conversion/sft"])
    examinations = {
        name: _build_examination(config, name, stages[f"generate/{name}"], stages[f"evaluate/{name}"])
        for name in config.evaluations
    }

    @dsl.pipeline(
        name="vlm-training",
        display_name=f"VLM training: {config.name}",
        description="Trains and evaluates a vision-language model: data and weights meet in pretraining, "
        "fine-tuning follows, and every score comes with the same score on pictures the model could not see.",
    )
    @takes_parameters(defaults=config)
    def vlm_training(**parameters):
        """Train and evaluate a vision-language model."""
        job_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        closing = place(close_run(job_id=job_id, workspace=parameters["workspace"]), stages["close_run"], config)
        opening = open_run(config=stored_settings(config), job_id=job_id, **parameters)
        run = place(opening, stages["open_run"], config).outputs
        # The opening stands outside: what a run can't begin without, image and volume, the closing can't do without either.
        # And the stages take what it gives as inputs of the handler, so that their graph is not full of its arrows.
        with dsl.ExitHandler(closing, name=STAGES_LABEL):
            given = {"context": run["context"], "settings": run["settings"]}

            def add(name: str, **inputs: Any) -> dsl.PipelineTask:
                """Add a stage of the table."""
                return place(stages[name].load()(**given, stage=name, **inputs), stages[name], config)

            examined: dict[str, dsl.PipelineTask] = {}

            def examine(asked: str, model: PipelineChannel) -> list[PipelineChannel]:
                """Ask a model everything that it is to be asked; return where the scores lie."""
                names = config.evaluations_of(asked)
                for name in names:
                    task = _shown(examinations[name](**given, model=model, raw=raw), f"{name}: generate, evaluate")
                    # A gate's baseline is scored before the gate is judged.
                    examined[name] = task.after(*(examined[other] for other in config.baselines_of(name).values()))
                return [examined[name].output for name in names]

            # Data.
            raw = add("download/dataset").outputs["raw"]
            captions = convert_pretrain(**given, raw=raw)
            conversations = convert_sft(**given, raw=raw)
            pretrain_data = add("energon_split/pretrain", shards=captions).outputs["dataset"]
            sft_data = add("energon_split/sft", shards=conversations).outputs["dataset"]

            # Weights.
            weights = add("download/weights", raw=raw).outputs["weights"]
            language = add("weight_conversion/language", weights=weights).outputs["converted"]
            vision = add("weight_conversion/vision", weights=weights).outputs["converted"]
            combined = add("combine", language=language, vision=vision).outputs["model"]

            # Published models, asked the same.
            published_scores = [
                scores
                for name in config.models
                for scores in examine(name, add(f"published_model/{name}").outputs["model"])
            ]

            # First training stage, and what it has learnt.
            cluster = run["cluster"]
            pretrained = add("pretrain", cluster=cluster, model=combined, dataset=pretrain_data).outputs["trained"]
            pretrained_scores = examine("pretrain", pretrained)

            # Second training stage, and what it has learnt.
            tuned = add("sft", cluster=cluster, model=pretrained, dataset=sft_data).outputs["trained"]
            tuned_scores = examine("sft", tuned)

            # What came out. A gate that is missed fails the run when there are a report and an export to look at.
            scores = [*published_scores, *pretrained_scores, *tuned_scores]
            written = add("report", pretrain=pretrained, sft=tuned, evaluations=scores)
            exported = add("export", model=tuned, evaluations=tuned_scores).outputs["exported"]
            add("quality_gate", evaluations=scores, exported=exported).after(written)

    return vlm_training


def build_conversion(config: RunConfig, stage: Stage) -> Callable[..., PipelineChannel]:
    """Return what adds a conversion to the pipeline and gives its shards: one task, or several and one that joins them."""
    tasks = stage.tasks(config)

    def in_one_task(**inputs: Any) -> PipelineChannel:
        return place(wds_conversion(stage=stage.name, **inputs), stage, config).outputs["shards"]

    if tasks == 1:
        return in_one_task

    # A pipeline of its own for the same reason as the examination.
    @dsl.pipeline(
        name=stage.name.replace("_", "-").replace("/", "-"),
        description="Converts a dataset in several tasks side by side.",
    )
    def parallel_conversion(context: dict, settings: dict, raw: dsl.Input[dsl.Dataset]) -> dsl.Dataset:
        given = {"context": context, "settings": settings, "stage": stage.name, "raw": raw}
        with dsl.ParallelFor(list(range(tasks)), name="parts") as part:
            written = place(wds_conversion_part(part=part, **given), stage, config)
        parts = dsl.Collected(written.outputs["shards"])
        label = f"{stage.label}, joined"
        return place(wds_conversion_merge(parts=parts, **given), stage, config, label).outputs["shards"]

    def in_several_tasks(**inputs: Any) -> PipelineChannel:
        return _shown(parallel_conversion(**inputs), stage.label).output

    return in_several_tasks


def _build_examination(config: RunConfig, name: str, generation: Stage, evaluation: Stage) -> BaseComponent:
    """Return the sub-pipeline that generates in partitions, side by side, and scores all of them together.

    It is a pipeline of its own because KFP's local runner hands the loop's item to every parameter of a loop that is
    the output of a task; inputs of a sub-pipeline reach the loop as they are.
    """
    partitions = generation.tasks(config)

    @dsl.pipeline(
        name=name.replace("_", "-"), description="Generates with a model in partitions and scores what it said."
    )
    def examination(context: dict, settings: dict, model: dsl.Input[dsl.Model], raw: dsl.Input[dsl.Dataset]) -> str:
        given = {"context": context, "settings": settings, "model": model, "raw": raw}
        with dsl.ParallelFor(list(range(partitions)), name="partitions") as partition:
            generated = place(generate(stage=generation.name, partition=partition, **given), generation, config)
        predictions = dsl.Collected(generated.outputs["predictions"])
        scored = place(evaluate(stage=evaluation.name, predictions=predictions, **given), evaluation, config)
        return scored.outputs["folder"]

    return examination


def _shown(pipeline: dsl.PipelineTask, label: str) -> dsl.PipelineTask:
    """Name a pipeline that is a task of another one for the UI, and return it; KFP's cache is off for it."""
    return pipeline.set_caching_options(False).set_display_name(label)


if not __package__:  # `kfp dsl compile --py` imports the file by itself, and finds this
    pipeline = build_pipeline(load_preset(os.environ.get("VLM_PRESET", DEFAULT_PRESET)))
