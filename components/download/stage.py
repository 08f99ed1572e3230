"""The download of data and of weights as stages."""

from pathlib import Path
from typing import Any

from components.download.config import DatasetConfig, WeightsConfig
from components.download.sources import check_lock, folder_identity, split_source
from components.errors import ConfigurationError
from components.stage.context import RunContext
from components.stage.runner import StageOutput, StageWork, run_stage

DATASET_VERSION = 1
WEIGHTS_VERSION = 1


def run_download_dataset(context: RunContext, config: DatasetConfig) -> StageOutput:
    """Draw scenes, or take in a folder in LLaVA-Pretrain's layout.

    Args:
        context: The pipeline run.
        config: The source and its settings.

    Returns:
        A raw dataset folder: pictures, captioning entries, conversations, held-out captions and questions.

    Raises:
        ConfigurationError: The source is of a kind that this version does not know, or a setting does not fit it.
        InputError: The folder's content is missing, broken or of another layout.
    """
    source = split_source(config.source, "data.source", "scenes")
    if source is None and config.sha256:
        raise ConfigurationError("data.sha256 locks the files of a file:// source; scenes:// has none. Remove it.")

    def body(work: StageWork) -> dict[str, Any]:
        if source is None:
            from components.download.dataset import write_scenes

            return write_scenes(config.scenes, config.seed, config.name, work.folder, work.progress)
        from components.download.folder import write_folder

        check_lock(source, config.sha256, "data.sha256")
        return write_folder(source, config.folder, config.seed, config.name, work.folder, work.progress)

    identity = config.source if source is None else folder_identity(source)
    return run_stage(
        context,
        stage="download/dataset",
        version=DATASET_VERSION,
        inputs={"source": identity},
        settings=config,
        body=body,
    )


def run_download_weights(context: RunContext, config: WeightsConfig, raw: Path | None = None) -> StageOutput:
    """Make random weights and a tokenizer of the dataset's text, or take in Hugging Face folders.

    Args:
        context: The pipeline run.
        config: The source and its settings.
        raw: Finished raw dataset folder, whose text a `random://` tokenizer is trained on; not read otherwise.

    Returns:
        A folder with `language/` (weights and tokenizer) and `vision/`.

    Raises:
        ConfigurationError: The source is of a kind that this version does not know, or a model setting is not one of
            transformers', or `random://` comes without a dataset.
        InputError: A folder lacks a file.
    """
    source = split_source(config.source, "weights.source", "random")
    inputs: dict[str, Path | str] = {"source": config.source if source is None else folder_identity(source)}
    if source is None:
        if raw is None:
            raise ConfigurationError(
                "weights.source random:// trains its tokenizer on the dataset: a raw dataset is needed."
            )
        inputs["raw"] = raw

    def body(work: StageWork) -> dict[str, Any]:
        if source is not None:
            from components.download.weights import link_weights

            return link_weights(source, work.folder)
        from components.download.random_weights import write_random_weights

        assert raw is not None  # checked above
        return write_random_weights(config, raw, work.folder, work.progress)

    return run_stage(
        context, stage="download/weights", version=WEIGHTS_VERSION, inputs=inputs, settings=config, body=body
    )
