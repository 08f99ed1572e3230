"""KFP shell of the generation."""

from kfp import dsl

from components.images import GPU_IMAGE


@dsl.component(base_image=GPU_IMAGE, install_kfp_package=False)
def generate(
    context: dict,
    settings: dict,
    stage: str,
    partition: int,
    model: dsl.Input[dsl.Model],
    raw: dsl.Input[dsl.Dataset],
    predictions: dsl.Output[dsl.Dataset],
):
    """Let a model answer one partition of a task's held-out samples, greedily, also under its controls.

    Args:
        context: Run context from open_run.
        settings: Settings of every stage by its name.
        stage: Name of this stage, `generate/` and the evaluation's; its settings are a `GenerateConfig`.
        partition: Number of the partition, from 0.
        model: Model folder of a training stage.
        raw: Raw dataset with pictures and ground truth.
        predictions: One object per sample and control (`predictions.jsonl`).
    """
    from components.context import RunContext
    from components.generate.config import GENERATION_PREFIX, GenerateConfig
    from components.generate.stage import run_generate
    from components.stage.pointer import folder_of, publish
    from components.stage.shell import reported_errors

    with reported_errors():
        output = run_generate(
            RunContext.model_validate(context),
            GenerateConfig.model_validate(settings[stage]),
            model=folder_of(model),
            raw=folder_of(raw),
            partition=int(partition),
            name=stage.removeprefix(GENERATION_PREFIX),
        )
        publish(predictions, output)
