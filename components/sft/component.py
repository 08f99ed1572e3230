"""KFP shell of supervised fine-tuning."""

from kfp import dsl

from components.images import GPU_IMAGE


@dsl.component(base_image=GPU_IMAGE, install_kfp_package=False)
def sft(
    context: dict,
    settings: dict,
    cluster: dict,
    model: dsl.Input[dsl.Model],
    dataset: dsl.Input[dsl.Dataset],
    trained: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    curves: dsl.Output[dsl.HTML],
):
    """Teach the pretrained model to answer questions about pictures (LLaVA's second stage).

    Args:
        context: The pipeline run, from `open_run`.
        settings: `TrainingConfig`: recipe and launch.
        cluster: `ClusterConfig`: what the pods of a training job get.
        model: Model folder to start from.
        dataset: WebDataset shards with energon's metadata.
        trained: The trained model folder.
        metrics: Final losses, speed and counters.
        curves: Loss and learning rate over the steps.
    """
    from components.context import RunContext
    from components.launch.config import ClusterConfig
    from components.stage.pointer import folder_of, publish
    from components.stage.shell import reported_errors
    from components.training.config import TrainingConfig
    from components.training.kfp_metrics import publish_training
    from components.training.stage import run_training

    with reported_errors():
        output = run_training(
            RunContext.model_validate(context),
            "sft",
            TrainingConfig.model_validate(settings),
            model=folder_of(model),
            dataset=folder_of(dataset),
            cluster=ClusterConfig.model_validate(cluster),
        )
        publish(trained, output)
        publish_training(output, metrics, curves)
