"""Datasets that are streamed: what is recorded of them, and the pictures that are held out of them."""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.data.asked_questions import bare
from components.data.conversation import SYSTEM, without_marker
from components.data.decode import BrokenPicture, check_picture
from components.download import layout
from components.download.config import NAMED, SCENES, DatasetConfig
from components.download.derived import OPTIONS
from components.download.pictures import RootSource
from components.errors import InputError
from components.progress import Progress
from components.sources.config import DatasetSource, Filters
from components.sources.filters import picture_cause, score_cause, text_cause
from components.sources.folder import SourceFolder
from components.sources.pictures import MissingPicture, picture_bytes
from components.sources.reading import read_rows, row_samples
from components.sources.recorded import CaptionQuestions, RecordedMixture, mixture_file, write_mixture
from components.sources.recording import Looked, check_names, default_name, look_at
from components.sources.sample import CAPTION_PROMPT
from components.sources.tables.registry import is_table
from components.sources.tables.table import BadRow
from components.storage.atomic import write_json
from components.storage.config import TransferConfig
from components.storage.listing import listing_identity
from components.storage.uri import read_uri

PREFIX = "streamed/"
_TARGET = "pictures/streamed.zip"
_EXAMPLES = "examples.json"
_EXAMPLE_PICTURES = "examples.zip"

_FEW = 64
_UNUSABLE_SHARE = 1.1
_MOST_LOOKED_AT = 20  # times as many rows as pictures are wanted: of texts and broken rows there may be many
_MOST_CAPTIONS = 256  # that wrong options are drawn from; every shard's task carries them
_FILES = {"pretrain": layout.PRETRAIN, "sft": layout.SFT}

Streams = Mapping[str, tuple[DatasetSource, ...]]
"""Training stage to the datasets that it streams; a stage that streams none is left out."""


def streams_of(config: DatasetConfig) -> dict[str, tuple[DatasetSource, ...]]:
    """Return what the settings stream.

    With source `named://`, what `pretrain` and `sft` say. Else the source, where it is a dataset of another format than LLaVA's:
    pretraining takes the first question and answer of a conversation, fine-tuning all.
    """
    if config.source == NAMED:
        parts = {"pretrain": config.pretrain, "sft": config.sft}
        streams = {stage: part.datasets for stage, part in parts.items() if part is not None and part.datasets}
        if "pretrain" in streams and config.sft is None:
            streams["sft"] = tuple(item.model_copy(update={"turns": "all"}) for item in streams["pretrain"])
        return streams
    if not _is_streamed(config):
        return {}
    dataset = DatasetSource(uri=config.source)
    return {"pretrain": (dataset.model_copy(update={"turns": "first"}),), "sft": (dataset,)}


def identities(streams: Streams, transfer: TransferConfig) -> dict[str, str]:
    """Return what the stage's key depends on: setting to the identity of the dataset's files."""
    found = {}
    for setting, source in _settings(streams):
        folder = SourceFolder(source.full_uri, setting, transfer)
        found[setting] = f"{folder.shown}#{listing_identity(list(folder.files.values()))}"
    return found


class Streamed:
    """Datasets that were looked at.

    Args:
        streams: What is streamed.
        transfer: How patient reading is.
        progress: Told how far the look is.

    Raises:
        InputError: A dataset is missing, damaged, or of no layout that is known.
        ConfigurationError: Two datasets of a mixture have one name.
    """

    def __init__(self, streams: Streams, transfer: TransferConfig, progress: Progress) -> None:
        self._transfer = transfer
        self._looked: dict[str, list[Looked]] = {stage: [] for stage in streams}
        seen: dict[str, Looked] = {}
        for setting, source in _settings(streams):
            key = _without_choice(source).model_dump_json()
            if key not in seen:
                seen[key] = look_at(source, setting, transfer, progress)
            chosen = {name: getattr(source, name) for name in ("turns", "weight", "cap", "sampling", "filters")} | {
                "name": source.name or default_name(source)
            }
            looked = replace(seen[key], dataset=seen[key].dataset.model_copy(update=chosen))
            self._looked[setting.split(".")[1]].append(looked)
        for stage, found in self._looked.items():
            check_names([looked.dataset for looked in found], f"data.{stage}.datasets")

    @property
    def shown(self) -> dict[str, str]:
        """Setting to URI, for `dataset.json`."""
        return {
            f"data.{stage}.datasets[{number}]": looked.dataset.shown
            for stage, found in self._looked.items()
            for number, looked in enumerate(found)
        }

    def write_examples(self, folder: Path, wanted: int, progress: Progress) -> tuple[Path, RootSource] | None:
        """Write the first captions and pictures of what pretraining streams, to choose held-out pictures from.

        Args:
            folder: Where to write.
            wanted: Pictures that are to be held out; 0 if evaluation data is given.
            progress: Told how many pictures are read.

        Returns:
            The entries and their pictures; None where pretraining streams nothing.

        Raises:
            InputError: No sample has one picture and a caption.
        """
        if "pretrain" not in self._looked:
            return None
        count = int(2 * wanted * _UNUSABLE_SHARE) or _FEW
        progress.start("reading examples", count, "pictures")
        entries: list[layout.Entry] = []
        pictures: set[str] = set()
        with layout.open_pictures(folder / _EXAMPLE_PICTURES) as archive:
            for name, content, example in self._examples(count):
                if name not in pictures:
                    layout.add_picture(archive, name.removeprefix(PREFIX), content)
                    pictures.add(name)
                    progress.update(len(pictures))
                entries.append(example)
        if not entries:
            raise InputError(
                f"{', '.join(self.shown.values())}: none of the first rows has one picture with a text that can be learnt as its "
                "caption. Give captions in `data.pretrain`."
            )
        write_json(folder / _EXAMPLES, entries)
        return folder / _EXAMPLES, RootSource(PREFIX, (folder / _EXAMPLE_PICTURES,), "", _TARGET)

    def finish(self, folder: Path, config: DatasetConfig) -> dict[str, Any]:
        """Write the mixtures, keep of the examples' pictures those that are held out, and correct `dataset.json`.

        Args:
            folder: The raw dataset folder, as written for the examples.
            config: The download's settings.

        Returns:
            Facts that take the place of the examples'.
        """
        held_out = _held_out(folder)
        digests = _keep_pictures(folder / _TARGET, held_out) if (folder / _TARGET).is_file() else []
        for name in (_EXAMPLES, _EXAMPLE_PICTURES):
            (folder / name).unlink(missing_ok=True)
        facts: dict[str, Any] = {
            "picture_bytes": sum(path.stat().st_size for path in folder.rglob("*.zip")),
        }
        questions = _questions(folder, config)
        for stage, found in self._looked.items():
            datasets = tuple(looked.dataset for looked in found)
            if stage == "sft" and config.sft is None:
                datasets = tuple(dataset.model_copy(update={"questions": questions}) for dataset in datasets)
            mixture = RecordedMixture(datasets=datasets, held_out=tuple(digests), transfer=self._transfer)
            write_mixture(mixture_file(folder / _FILES[stage]), mixture)
            facts[f"{stage}_entries"] = sum(dataset.taken for dataset in datasets)
            facts[f"{stage}_datasets"] = {dataset.name: dataset.taken for dataset in datasets}
        if "pretrain_datasets" in facts:
            facts["pictures"] = facts["pretrain_entries"]  # about one a row; the conversion counts them
        description = json.loads((folder / layout.DESCRIPTION).read_bytes())
        description["counts"].update(facts)
        description["streamed"] = self.shown
        if "sft" in self._looked:
            after = ", each caption followed by a question about it" if questions and config.sft is None else ""
            description["sft"] = f"streamed{after}"
        write_json(folder / layout.DESCRIPTION, description)
        return facts

    def _examples(self, count: int) -> Iterator[tuple[str, bytes, layout.Entry]]:
        """Yield name, bytes and entry of usable captions, of each dataset its share by weight."""
        total = sum(looked.dataset.weight for looked in self._looked["pretrain"])
        for looked in self._looked["pretrain"]:
            dataset, left = looked.dataset, -(-count * looked.dataset.weight // total)
            rows = read_rows(dataset, looked.folder, 0, min(dataset.taken, int(left * _MOST_LOOKED_AT)))
            for number, (file, row) in enumerate(rows):
                if left <= 0:
                    break
                found = list(_captions(looked, number, file, row, dataset.filters))
                yield from found
                left -= bool(found)


def _settings(streams: Streams) -> Iterator[tuple[str, DatasetSource]]:
    for stage, datasets in streams.items():
        for number, source in enumerate(datasets):
            yield f"data.{stage}.datasets[{number}]", source


def _without_choice(source: DatasetSource) -> DatasetSource:
    """Return a dataset without what changes nothing of its files and layout."""
    scores = Filters(scores=dict.fromkeys(source.filters.scores, 0.0))
    return source.model_copy(
        update={"name": "", "turns": "all", "weight": 1.0, "cap": None, "sampling": "spread", "filters": scores}
    )


def _is_streamed(config: DatasetConfig) -> bool:
    """Tell whether the source is a dataset of another format than LLaVA's: it has tables, and no JSON file of entries."""
    uri = read_uri(config.source, "data.source", (SCENES, NAMED))
    if uri.scheme in ("http", "https") and not is_table(uri.name):
        return False  # a web server's folder can't be listed, but for its lock file
    folder = SourceFolder(config.source, "data.source", config.transfer)
    questions = {layout.MULTIPLE_CHOICE, layout.REJECTS}
    tables = [name for name in folder.files if is_table(name) and name not in questions]
    entries = any("/" not in name and name.lower().endswith(".json") for name in tables)
    return bool(tables) and (folder.single or not entries)


def _captions(
    looked: Looked, number: int, file: str, row: Any, filters: Filters
) -> Iterator[tuple[str, bytes, layout.Entry]]:
    """Yield the captions of a row: of samples with one picture, which can be decoded, the first question and answer."""
    dataset = looked.dataset
    if isinstance(row, BadRow) or score_cause(filters, row):
        return
    try:
        for item, sample in enumerate(row_samples(dataset, row)):
            if len(sample.pictures) != 1 or text_cause(filters, sample.conversation):
                continue
            content = picture_bytes(sample.pictures[0], looked.folder, file)
            check_picture(content, "decode")
            if picture_cause(filters, [content]):
                continue
            turns = [turn["value"] for turn in sample.conversation if turn["from"] != SYSTEM]
            prompt, caption = without_marker(turns[0]), turns[1].strip()
            key = f"{dataset.name}-{dataset.row(number):09d}"
            name = f"{PREFIX}{key}.{_extension(content)}"
            yield name, content, layout.entry(f"{key}-{item}", name, [(prompt, caption)])
    except (InputError, MissingPicture, BrokenPicture):
        return


def _extension(content: bytes) -> str:
    return "png" if content.startswith(b"\x89PNG") else "webp" if content[8:12] == b"WEBP" else "jpg"


def _questions(folder: Path, config: DatasetConfig) -> CaptionQuestions | None:
    """Return what fine-tuning asks after captions; None where the examples have next to none."""
    captions: dict[str, str] = {}
    for example in json.loads((folder / layout.PRETRAIN).read_bytes()):
        human, model = (turn["value"] for turn in example["conversations"])
        if without_marker(human) == CAPTION_PROMPT and len(captions) < _MOST_CAPTIONS:
            captions.setdefault(bare(model), model)
    if len(captions) < OPTIONS:
        return None
    return CaptionQuestions(seed=config.seed, form=config.folder.answer_form, captions=tuple(captions.values()))


def _held_out(folder: Path) -> set[str]:
    """Return the names of evaluation pictures."""
    names = {item["file_name"] for item in json.loads((folder / layout.CAPTIONING).read_bytes())["images"]}
    lines = (folder / layout.MULTIPLE_CHOICE).read_text(encoding="utf-8").splitlines()
    return names | {json.loads(line)["image"] for line in lines}


def _keep_pictures(archive: Path, held_out: set[str]) -> list[str]:
    """Leave in a zip the held-out pictures alone; return the SHA-256 of each."""
    kept: dict[str, bytes] = {}
    with zipfile.ZipFile(archive) as old:
        for name in old.namelist():
            if PREFIX + name in held_out:
                kept[name] = old.read(name)
    with layout.open_pictures(archive) as new:
        for name, content in sorted(kept.items()):
            layout.add_picture(new, name, content)
    return sorted({hashlib.sha256(content).hexdigest() for content in kept.values()})
