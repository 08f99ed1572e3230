"""The download of data and of weights as stages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from components.context import RunContext
from components.download.config import NAMED, SCENES, DatasetConfig
from components.download.fetched import Fetched, Wanted, fetch_sources
from components.download.layout import PRETRAIN, SFT
from components.download.weights_config import RANDOM, WeightsConfig
from components.errors import ConfigurationError, InputError
from components.stage.part import Part, part_of
from components.stage.runner import StageOutput, StageWork, run_stage
from components.storage.checksum import content_key
from components.storage.config import TransferConfig
from components.storage.lock import LOCK_NAME, read_lock, write_lock

if TYPE_CHECKING:
    from components.download.streamed import Streams

DATASET_VERSION = 10
WEIGHTS_VERSION = 4


class _Sources:
    """Fetches what settings name, and remembers it."""

    def __init__(
        self, context: RunContext, section: str, config: DatasetConfig | WeightsConfig, generated: tuple[str, ...]
    ) -> None:
        self._context, self._transfer, self._generated = context, config.transfer, generated
        self.lock = read_lock(config.lock, f"{section}.lock", config.transfer)
        self.fetched: dict[str, Fetched] = {}

    def fetch(self, wanted: Sequence[Wanted]) -> dict[str, Fetched]:
        """Fetch sources."""
        self.fetched = fetch_sources(self._context, wanted, self._transfer, self.lock, self._generated)
        return self.fetched

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

    from components.download.named_parts import named_sources
    from components.download.streamed import identities, streams_of

    streams = streams_of(config)
    sources = _Sources(context, "data", config, (SCENES, NAMED))
    if config.source == NAMED:
        sources.fetch(named_sources(config))
    elif not streams:
        sources.fetch([Wanted("data.source", config.source)])
    if streams and config.lock and not sources.fetched:
        raise ConfigurationError(
            "data.lock locks files that are fetched; the data is streamed. Pin it by `revision`, or remove the lock."
        )
    inputs = sources.inputs | identities(streams, config.transfer)

    def take_in(work: StageWork) -> dict[str, Any]:
        sources.check(work)
        return _take_in(config, sources.fetched, streams, work)

    return _run(context, "download/dataset", DATASET_VERSION, inputs, config, take_in)


def _take_in(
    config: DatasetConfig, fetched: Mapping[str, Fetched], streams: "Streams", work: StageWork
) -> dict[str, Any]:
    """Write the raw dataset folder of what was fetched, and of what is streamed."""
    from components.download.folder_parts import folder_parts
    from components.download.intake import write_dataset
    from components.download.named_parts import named_parts
    from components.download.streamed import Streamed

    streamed = Streamed(streams, config.transfer, work.progress)
    given = config.evaluation.captioning is not None
    wanted = 0 if given else config.folder.held_out_pictures
    examples = streamed.write_examples(work.folder, wanted, work.progress)
    if config.source == NAMED or streams:
        parts = named_parts(config, fetched, examples)
    else:
        found = fetched["data.source"]
        if not found.is_folder:
            raise InputError(
                f"data.source names {found.shown}, which is one file and no table: name the folder that has annotations and "
                f"pictures, or use {NAMED} and name them one by one."
            )
        parts = folder_parts(found.folder, found.shown)
    facts = write_dataset(parts, config.folder, config.seed, config.name, work.folder, work.progress)
    return facts | (streamed.finish(work.folder, config) if streams else {})


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

    sources = _Sources(context, "weights", config, (RANDOM,))
    given = {LANGUAGE: config.language_source, VISION: config.vision_source}
    random = [part for part, source in given.items() if source == RANDOM]
    if len(random) == len(given) and config.lock:
        raise ConfigurationError("weights.lock locks the files of a source; random:// has none. Remove it.")
    if LANGUAGE in random and raw is None:
        raise ConfigurationError(
            "weights.language_source random:// trains its tokenizer on the dataset: a raw dataset is needed."
        )
    sources.fetch(
        [
            Wanted(f"weights.{part}_source", source, needed_files(part))
            for part, source in given.items()
            if part not in random
        ]
    )
    inputs: dict[str, Path | str | Part] = {**sources.inputs, **{f"weights.{part}_source": RANDOM for part in random}}
    if LANGUAGE in random and raw is not None:
        inputs["raw"] = part_of(raw, [PRETRAIN, SFT])

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
    inputs: Mapping[str, Path | str | Part],
    config: DatasetConfig | WeightsConfig,
    body: Any,
) -> StageOutput:
    # How files are fetched changes nothing of what comes out.
    settings: BaseModel = config.model_copy(update={"transfer": TransferConfig()})
    return run_stage(context, stage=stage, version=version, inputs=inputs, settings=settings, body=body)
