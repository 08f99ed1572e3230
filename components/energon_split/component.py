"""KFP shell of the energon split."""

from kfp import dsl

from components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def energon_split(
    context: dict, settings: dict, stage: str, shards: dsl.Input[dsl.Dataset], dataset: dsl.Output[dsl.Dataset]
):
    """Index WebDataset shards for energon, divide them into training, validation and test, and read everything back.

    Args:
        context: The pipeline run: name, workspace, tracking.
        settings: Settings of every stage by its name.
        stage: Name of this stage; its settings are an `EnergonSplitConfig`.
        shards: The WebDataset shards.
        dataset: The energon dataset and its blend file.
    """
    from components.context import RunContext
    from components.energon_split.config import EnergonSplitConfig
    from components.energon_split.stage import run_energon_split
    from components.stage.pointer import folder_of, publish
    from components.stage.shell import reported_errors

    with reported_errors():
        output = run_energon_split(
            RunContext.model_validate(context),
            EnergonSplitConfig.model_validate(settings[stage]),
            shards=folder_of(shards),
        )
        publish(dataset, output)
