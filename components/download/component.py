"""KFP shells of the downloads."""

from kfp import dsl

from components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def download_dataset(context: dict, settings: dict, stage: str, raw: dsl.Output[dsl.Dataset]):
    """Draw scenes, or fetch captioned pictures and conversations, and hold some pictures out for evaluation.

    Args:
        context: The pipeline run: name, workspace, tracking.
        settings: Settings of every stage by its name.
        stage: Name of this stage; its settings are a `DatasetConfig`.
        raw: The raw dataset: pictures, captions, conversations, held-out ground truth.
    """
    from components.context import RunContext
    from components.download.config import DatasetConfig
    from components.download.stage import run_download_dataset
    from components.stage.pointer import publish
    from components.stage.shell import reported_errors

    with reported_errors():
        output = run_download_dataset(RunContext.model_validate(context), DatasetConfig.model_validate(settings[stage]))
        publish(raw, output)


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def download_weights(
    context: dict, settings: dict, stage: str, raw: dsl.Input[dsl.Dataset], weights: dsl.Output[dsl.Model]
):
    """Make small random models, or fetch pretrained ones in Hugging Face layout.

    Args:
        context: The pipeline run: name, workspace, tracking.
        settings: Settings of every stage by its name.
        stage: Name of this stage; its settings are a `WeightsConfig`.
        raw: The raw dataset; a random model's tokenizer is trained on its text.
        weights: Language and vision model with the tokenizer.
    """
    from components.context import RunContext
    from components.download.stage import run_download_weights
    from components.download.weights_config import WeightsConfig
    from components.stage.pointer import folder_of, publish
    from components.stage.shell import reported_errors

    with reported_errors():
        output = run_download_weights(
            RunContext.model_validate(context), WeightsConfig.model_validate(settings[stage]), raw=folder_of(raw)
        )
        publish(weights, output)
