"""KFP shell of the combination."""

from kfp import dsl

from components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def combine(
    context: dict,
    settings: dict,
    stage: str,
    language: dsl.Input[dsl.Model],
    vision: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
):
    """Combines a language model and a vision tower with a freshly seeded projector.

    Args:
        context: The pipeline run.
        settings: Settings of every stage by its name.
        stage: Name of this stage; its settings are a `CombineConfig`.
        language: The converted language model.
        vision: The converted vision tower.
        model: The multimodal model folder: checkpoint, architecture, tokenizer.
    """
    from components.combine.config import CombineConfig
    from components.combine.stage import run_combine
    from components.context import RunContext
    from components.stage.pointer import folder_of, publish
    from components.stage.shell import reported_errors

    with reported_errors():
        output = run_combine(
            RunContext.model_validate(context),
            CombineConfig.model_validate(settings[stage]),
            language=folder_of(language),
            vision=folder_of(vision),
            stock=not settings["export"]["custom_code"],
        )
        publish(model, output)
