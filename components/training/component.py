"""KFP shell of every training stage."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.images import GPU_IMAGE


def training_component(name: str, description: str) -> BaseComponent:
    """Return the component of a training stage.

    Args:
        name: Name of the component.
        description: What the stage teaches the model, for KFP's UI.
    """
    component = dsl.component(train, base_image=GPU_IMAGE, install_kfp_package=False)
    component.name = component.component_spec.name = name
    component.description = component.component_spec.description = description
    return component


def train(
    context: dict,
    settings: dict,
    stage: str,
    cluster: dict,
    model: dsl.Input[dsl.Model],
    dataset: dsl.Input[dsl.Dataset],
    trained: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    curves: dsl.Output[dsl.HTML],
):
    """Train a model on a dataset.

    Args:
        context: The pipeline run, from `open_run`.
        settings: Settings of every stage by its name.
        stage: Name of this stage; its settings are a `TrainingConfig`.
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
            stage,
            TrainingConfig.model_validate(settings[stage]),
            model=folder_of(model),
            dataset=folder_of(dataset),
            cluster=ClusterConfig.model_validate(cluster),
        )
        publish(trained, output)
        publish_training(output, metrics, curves)
