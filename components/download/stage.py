"""The download of data and of weights as stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.download.config import DatasetConfig, WeightsConfig
from components.download.fetched import Choice, Fetched, fetch_source
from components.errors import ConfigurationError, InputError
from components.stage.context import RunContext
from components.stage.runner import StageOutput, StageWork, run_stage
from components.storage.checksum import content_key
from components.storage.config import TransferConfig
from components.storage.lock import LOCK_NAME, read_lock, write_lock

DATASET_VERSION = 2
WEIGHTS_VERSION = 2

SCENES = "scenes://"
NAMED = "named://"
RANDOM = "random://"


class _Sources:
    """Fetches what settings name, and remembers it."""

    def __init__(
        self, context: RunContext, section: str, lock: str, transfer: TransferConfig, generated: tuple[str, ...]
    ) -> None:
        self._context, self._transfer, self._generated = context, transfer, generated
        self.lock = read_lock(lock, f"{section}.lock", transfer)
        self.fetched: dict[str, Fetched] = {}

    def fetch(self, uri: str, setting: str, choose: Choice | None = None) -> Fetched:
        """Fetch the source of a setting."""
        found = fetch_source(self._context, uri, setting, self._transfer, self.lock, choose, self._generated)
        self.fetched[setting] = found
        return found

    @property
    def inputs(self) -> dict[str, Path | str]:
        """What the stage's key depends on."""
        inputs: dict[str, Path | str] = {setting: found.identity for setting, found in self.fetched.items()}
        if self.lock is not None:
            inputs["lock"] = content_key(self.lock.model_dump(mode="json"))
        return inputs

    def check(self, work: StageWork) -> None:
        """Compare all files with the lock, and leave a lock file of what was fetched."""
        for found in self.fetched.values():
            found.check(self.lock, work.progress)
        locked = {setting: entry for setting, found in self.fetched.items() if (entry := found.locked()) is not None}
        if locked:
            write_lock(work.folder / LOCK_NAME, locked)


def run_download_dataset(context: RunContext, config: DatasetConfig) -> StageOutput:
    """Draw scenes, or take in a dataset in LLaVA's layout from wherever it is.

    Args:
        context: The pipeline run.
        config: The sources and their settings.

    Returns:
        A raw dataset folder: pictures, captioning entries, conversations, held-out captions and questions.

    Raises:
        ConfigurationError: A URI or the environment can't work, or a setting does not fit the source.
        InputError: A source is missing, forbidden, broken or of another layout.
        StageError: A source can't be reached, or the disk is too small.
    """
    if config.source == SCENES:
        if config.lock:
            raise ConfigurationError("data.lock locks the files of a source; scenes:// has none. Remove it.")

        def draw(work: StageWork) -> dict[str, Any]:
            from components.download.dataset import write_scenes

            return write_scenes(config.scenes, config.seed, config.name, work.folder, work.progress)

        return _run(context, "download/dataset", DATASET_VERSION, {"source": SCENES}, config, draw)

    from components.download.parts import folder_parts, named_parts

    sources = _Sources(context, "data", config.lock, config.transfer, (SCENES, NAMED))
    if config.source == NAMED:
        parts = named_parts(config, sources.fetch)
    else:
        found = sources.fetch(config.source, "data.source")
        if not found.is_folder:
            raise InputError(
                f"data.source names {found.shown}, which is one file: name the folder that has annotations and pictures, or use "
                f"{NAMED} and name them one by one."
            )
        parts = folder_parts(found.folder, found.shown)

    def take_in(work: StageWork) -> dict[str, Any]:
        from components.download.intake import write_dataset

        sources.check(work)
        return write_dataset(parts, config.folder, config.seed, config.name, work.folder, work.progress)

    return _run(context, "download/dataset", DATASET_VERSION, sources.inputs, config, take_in)


def run_download_weights(context: RunContext, config: WeightsConfig, raw: Path | None = None) -> StageOutput:
    """Make random weights and a tokenizer of the dataset's text, or fetch models in Hugging Face layout.

    Args:
        context: The pipeline run.
        config: The sources and their settings.
        raw: Finished raw dataset folder, whose text a `random://` tokenizer is trained on; not read otherwise.

    Returns:
        A folder with `language/` (weights and tokenizer) and `vision/`.

    Raises:
        ConfigurationError: A URI or the environment can't work, a model setting is not one of transformers', or
            `random://` comes without a dataset.
        InputError: A source is missing, forbidden or broken, or lacks a file.
        StageError: A source can't be reached, or the disk is too small.
    """
    from components.download.weights import LANGUAGE, VISION, needed_files, place_model

    sources = _Sources(context, "weights", config.lock, config.transfer, (RANDOM,))
    given = {LANGUAGE: config.language_source, VISION: config.vision_source}
    random = [part for part, source in given.items() if source == RANDOM]
    if len(random) == len(given) and config.lock:
        raise ConfigurationError("weights.lock locks the files of a source; random:// has none. Remove it.")
    if LANGUAGE in random and raw is None:
        raise ConfigurationError(
            "weights.language_source random:// trains its tokenizer on the dataset: a raw dataset is needed."
        )
    for part, source in given.items():
        if part not in random:
            sources.fetch(source, f"weights.{part}_source", needed_files(part))
    inputs = sources.inputs | {f"weights.{part}_source": RANDOM for part in random}
    if LANGUAGE in random and raw is not None:
        inputs["raw"] = raw

    def body(work: StageWork) -> dict[str, Any]:
        sources.check(work)
        facts: dict[str, Any] = {}
        if random:
            from components.download.random_weights import write_random_weights

            facts |= write_random_weights(config, random, raw, work.folder, work.progress)
        for part in given:
            if part not in random:
                facts[part] = place_model(sources.fetched[f"weights.{part}_source"], part, work.folder, work.progress)
        return facts

    return _run(context, "download/weights", WEIGHTS_VERSION, inputs, config, body)


def _run(
    context: RunContext,
    stage: str,
    version: int,
    inputs: Mapping[str, Path | str],
    config: DatasetConfig | WeightsConfig,
    body: Any,
) -> StageOutput:
    # How files are fetched changes nothing of what comes out.
    settings: BaseModel = config.model_copy(update={"transfer": TransferConfig()})
    return run_stage(context, stage=stage, version=version, inputs=inputs, settings=settings, body=body)
