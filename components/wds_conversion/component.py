"""KFP shell of the WebDataset conversion."""

from kfp import dsl

from components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def wds_conversion(context: dict, settings: dict, raw: dsl.Input[dsl.Dataset], shards: dsl.Output[dsl.Dataset]):
    """Turn one annotation file of a raw dataset and its pictures into WebDataset shards.

    Args:
        context: The pipeline run: name, workspace, tracking.
        settings: Settings of the conversion: annotation file, prefix, samples per shard, checks.
        raw: The raw dataset.
        shards: The shards, with the list of rejected entries.
    """
    from components.stage.context import RunContext
    from components.stage.pointer import folder_of, publish
    from components.stage.shell import reported_errors
    from components.wds_conversion.config import WdsConversionConfig
    from components.wds_conversion.stage import run_wds_conversion

    with reported_errors():
        output = run_wds_conversion(
            RunContext.model_validate(context), WdsConversionConfig.model_validate(settings), raw=folder_of(raw)
        )
        publish(shards, output)
