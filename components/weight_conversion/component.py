"""KFP shell of the weight conversion."""

from kfp import dsl

from components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def weight_conversion(
    context: dict,
    settings: dict,
    stage: str,
    weights: dsl.Input[dsl.Model],
    converted: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Converts published weights to a megatron-core checkpoint and proves that both compute the same.

    Args:
        context: The pipeline run.
        settings: Settings of every stage by its name.
        stage: Name of this stage; its settings are a `WeightConversionConfig`.
        weights: The downloaded weights.
        converted: The part as a distributed checkpoint, with a report on every tensor.
        metrics: The largest difference between the source's output and the checkpoint's, and counts.
    """
    from components.context import RunContext
    from components.stage.pointer import folder_of, publish, publish_numbers
    from components.stage.shell import reported_errors
    from components.weight_conversion.config import WeightConversionConfig
    from components.weight_conversion.stage import run_weight_conversion

    with reported_errors():
        output = run_weight_conversion(
            RunContext.model_validate(context),
            WeightConversionConfig.model_validate(settings[stage]),
            weights=folder_of(weights),
        )
        publish(converted, output)
        publish_numbers(metrics, output)
