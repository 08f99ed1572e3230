"""KFP shells of the WebDataset conversion: in one task, or in several and one that joins them."""

from kfp import dsl

from components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def wds_conversion(
    context: dict, settings: dict, stage: str, raw: dsl.Input[dsl.Dataset], shards: dsl.Output[dsl.Dataset]
):
    """Turn one annotation file of a raw dataset and its pictures into WebDataset shards.

    Args:
        context: The pipeline run: name, workspace, tracking.
        settings: Settings of every stage by its name.
        stage: Name of this stage; its settings are a `WdsConversionConfig`.
        raw: The raw dataset.
        shards: The shards, with the list of rejected entries.
    """
    from components.context import RunContext
    from components.stage.pointer import folder_of, publish
    from components.stage.shell import reported_errors
    from components.wds_conversion.config import WdsConversionConfig
    from components.wds_conversion.stage import run_wds_conversion

    with reported_errors():
        output = run_wds_conversion(
            RunContext.model_validate(context), WdsConversionConfig.model_validate(settings[stage]), raw=folder_of(raw)
        )
        publish(shards, output)


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def wds_conversion_part(
    context: dict, settings: dict, stage: str, part: int, raw: dsl.Input[dsl.Dataset], shards: dsl.Output[dsl.Dataset]
):
    """Write one range of the shards; several such tasks share the work.

    Args:
        context: The pipeline run: name, workspace, tracking.
        settings: Settings of every stage by its name.
        stage: Name of this stage; its settings are a `WdsConversionConfig`.
        part: Number of the range, from 0.
        raw: The raw dataset.
        shards: The shards of the range.
    """
    from components.context import RunContext
    from components.stage.pointer import folder_of, publish
    from components.stage.shell import reported_errors
    from components.wds_conversion.config import WdsConversionConfig
    from components.wds_conversion.stage import run_wds_conversion_part

    with reported_errors():
        output = run_wds_conversion_part(
            RunContext.model_validate(context),
            WdsConversionConfig.model_validate(settings[stage]),
            raw=folder_of(raw),
            part=int(part),
        )
        publish(shards, output)


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def wds_conversion_merge(
    context: dict,
    settings: dict,
    stage: str,
    parts: dsl.Input[list[dsl.Dataset]],
    raw: dsl.Input[dsl.Dataset],
    shards: dsl.Output[dsl.Dataset],
):
    """Join the ranges of shards to one dataset, and check that none is missing.

    Args:
        context: The pipeline run: name, workspace, tracking.
        settings: Settings of every stage by its name.
        stage: Name of this stage; its settings are a `WdsConversionConfig`.
        parts: The shards of all ranges.
        raw: The raw dataset.
        shards: The shards, with the list of rejected entries.
    """
    from components.context import RunContext
    from components.stage.pointer import folder_of, publish
    from components.stage.shell import reported_errors
    from components.wds_conversion.config import WdsConversionConfig
    from components.wds_conversion.stage import run_wds_conversion_merge

    with reported_errors():
        output = run_wds_conversion_merge(
            RunContext.model_validate(context),
            WdsConversionConfig.model_validate(settings[stage]),
            raw=folder_of(raw),
            parts=[folder_of(artifact) for artifact in parts],
        )
        publish(shards, output)
