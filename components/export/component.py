"""KFP shell of the export."""

from kfp import dsl

from components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def export(
    context: dict,
    settings: dict,
    stage: str,
    model: dsl.Input[dsl.Model],
    evaluations: list,
    exported: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Write the model as a folder that transformers loads, and prove that it computes the same.

    Args:
        context: Run context from open_run.
        settings: Settings of every stage by its name.
        stage: Name of this stage; its settings are an `ExportConfig`.
        model: Model folder of a training stage.
        evaluations: Stage folders of that model's evaluations, for the model card.
        exported: The folder in Hugging Face's Llava layout.
        metrics: Differences between the folder and the checkpoint, sizes.
    """
    from pathlib import Path

    from components.context import RunContext
    from components.export.config import ExportConfig
    from components.export.stage import run_export
    from components.stage.pointer import folder_of, publish, publish_numbers
    from components.stage.shell import reported_errors

    with reported_errors():
        output = run_export(
            RunContext.model_validate(context),
            ExportConfig.model_validate(settings[stage]),
            model=folder_of(model),
            scores=[Path(folder) for folder in evaluations],
        )
        publish(exported, output)
        publish_numbers(metrics, output)
