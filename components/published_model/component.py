"""KFP shell of published models."""

from kfp import dsl

from components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def published_model(context: dict, settings: dict, stage: str, model: dsl.Output[dsl.Model]):
    """Put a published model where the generation finds it.

    Args:
        context: Run context from open_run.
        settings: Settings of every stage by its name.
        stage: Name of this stage, `published_model/` and the model's name; its settings are a `PublishedModel`.
        model: The model's files, or where its endpoint is.
    """
    from components.context import RunContext
    from components.published_model.config import PublishedModel
    from components.published_model.stage import PREFIX, run_published_model
    from components.stage.pointer import publish
    from components.stage.shell import reported_errors

    with reported_errors():
        output = run_published_model(
            RunContext.model_validate(context),
            PublishedModel.model_validate(settings[stage]),
            name=stage.removeprefix(PREFIX),
        )
        publish(model, output)
