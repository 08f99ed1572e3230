"""What a dataset in LLaVA's layout consists of, wherever its parts come from."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from components.download import layout
from components.download.benchmarks.registry import BENCHMARKS
from components.download.config import AnnotatedSource, DatasetConfig, QuestionsSource
from components.download.fetched import Choice, Fetched, Wanted
from components.download.pictures import RootSource
from components.errors import ConfigurationError, InputError
from components.stage.manifest import MANIFEST_NAME
from components.storage.lock import LOCK_NAME

_OWN_FILES = {
    layout.SFT,
    layout.CAPTIONING,
    *layout.BENCHMARK_CAPTIONS,
    layout.EVALUATION_PICTURES,
    layout.DESCRIPTION,
    LOCK_NAME,
    MANIFEST_NAME,
}
_VALIDATION = re.compile(r"(^|/)validation-[^/]*\.parquet$")

_MMMU = "data.evaluation.mmmu"
_WORDS = "data.evaluation.textvqa.words"
_BENCHMARKS = "data.evaluation.benchmarks"
_FILES = "data.evaluation.benchmark_files"


@dataclass(frozen=True)
class DatasetParts:
    """The files of a dataset in LLaVA's layout.

    Attributes:
        origin: Where it comes from, for `dataset.json`.
        pretrain: Captions.
        roots: Where the pictures are.
        sft: Conversations; None to derive them.
        captioning: Captions in COCO's layout; None to hold pictures out.
        captioning_prefixes: Prefixes of the roots that hold the pictures of `captioning`.
        multiple_choice: Questions; None to derive them.
        mmmu: Parquet files in MMMU's layout.
        vqav2: Questions and annotations in VQAv2's layout.
        vqav2_prefixes: Prefixes of the roots that hold their pictures.
        textvqa: Questions in TextVQA's layout.
        textvqa_prefixes: Prefixes of the roots that hold their pictures.
        textvqa_words: The words that OCR found in TextVQA's pictures.
        benchmarks: Benchmark to its tables, which have its pictures.
        benchmark_files: Benchmark to its authors' annotations.
        benchmark_prefixes: Benchmark to prefixes of the roots that hold the pictures of its annotations.
        captions: Name of a file of a benchmark's captions in the raw dataset folder to captions in COCO's layout.
        more: Name of a file of questions in the raw dataset folder to the lines that it is made of.
        lenient: Whether names may differ from stored ones by a leading `images/`.
        sources: Setting to URI of parts that are named one by one, for `dataset.json`.
    """

    origin: str
    pretrain: Path
    roots: tuple[RootSource, ...]
    sft: Path | None = None
    captioning: Path | None = None
    captioning_prefixes: tuple[str, ...] = ()
    multiple_choice: Path | None = None
    mmmu: tuple[Path, ...] = ()
    vqav2: tuple[Path, Path] | None = None
    vqav2_prefixes: tuple[str, ...] = ()
    textvqa: Path | None = None
    textvqa_prefixes: tuple[str, ...] = ()
    textvqa_words: Path | None = None
    benchmarks: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    benchmark_files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    benchmark_prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    captions: Mapping[str, Path] = field(default_factory=dict)
    more: Mapping[str, Path] = field(default_factory=dict)
    lenient: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def evaluation_files(self) -> dict[str, Path]:
        """File of ground truth in the raw dataset folder to the file that it is made of."""
        files = {
            layout.CAPTIONING: self.captioning,
            layout.MULTIPLE_CHOICE: self.multiple_choice,
            layout.VQAV2: self.vqav2[0] if self.vqav2 else None,
            layout.TEXTVQA: self.textvqa,
            layout.MMMU: self.mmmu[0] if self.mmmu else None,
            **self.captions,
            **self.more,
        }
        return {name: path for name, path in files.items() if path is not None}


def folder_parts(source: Path, origin: str) -> DatasetParts:
    """Find the parts in a folder: one annotations file, pictures, optionally `sft.json`, optionally evaluation data.

    Args:
        source: The folder; that of an earlier download is one, too.
        origin: Where it comes from.

    Raises:
        InputError: The folder has another layout.
    """
    there = [name for name in (layout.CAPTIONING, layout.MULTIPLE_CHOICE) if (source / name).is_file()]
    if len(there) == 1:
        raise InputError(
            f"{source} has {there[0]} alone: give both {layout.CAPTIONING} and {layout.MULTIPLE_CHOICE}, or neither."
        )
    if streamed := sorted(source.glob("*.mixture.json")):
        raise InputError(
            f"{source} is a download whose data is streamed ({streamed[0].name}) from elsewhere: name the datasets in "
            "`data.pretrain.datasets`, or the run's settings."
        )
    roots = _described_roots(source)
    if roots is None:
        archive = source / layout.PICTURES
        paths = (
            (archive,) if archive.is_file() else tuple(path for path in (source / "images", source) if path.is_dir())
        )
        roots = (RootSource("", paths, "", layout.PICTURES),)
    return DatasetParts(
        origin=origin,
        pretrain=_find_annotations(source),
        roots=roots,
        sft=source / layout.SFT if (source / layout.SFT).is_file() else None,
        captioning=source / layout.CAPTIONING if there else None,
        multiple_choice=source / layout.MULTIPLE_CHOICE if there else None,
        captions={name: source / name for name in layout.BENCHMARK_CAPTIONS if (source / name).is_file()},
        more={path.name: path for path in sorted(source.glob("*.jsonl")) if _holds_questions(path)},
        lenient=True,
    )


def named_sources(config: DatasetConfig) -> list[Wanted]:
    """Return the sources that the settings name one by one, with source `named://`.

    Raises:
        ConfigurationError: Two sources claim the same prefix.
    """
    wanted = []
    claimed: dict[str, str] = {}
    for setting, part in _named(config).items():
        for number, images in enumerate(part.images):
            name = f"{setting}.images[{number}]"
            if claimed.setdefault(images.prefix, images.uri) != images.uri:
                raise ConfigurationError(
                    f"{name}: pictures with the prefix {images.prefix!r} come from another source already. Names must tell "
                    "the sources apart."
                )
            wanted.append(Wanted(name, images.uri))
        wanted.append(Wanted(f"{setting}.annotations", part.annotations))
        if isinstance(part, QuestionsSource):
            wanted.append(Wanted(f"{setting}.questions", part.questions))
    if config.evaluation.mmmu:
        wanted.append(Wanted(_MMMU, config.evaluation.mmmu, _validation_files))
    if config.evaluation.textvqa and config.evaluation.textvqa.words:
        wanted.append(Wanted(_WORDS, config.evaluation.textvqa.words))
    for benchmark, uri in config.evaluation.benchmarks.items():
        wanted.append(Wanted(f"{_BENCHMARKS}.{benchmark}", uri, _files_of(benchmark)))
    return wanted


def named_parts(
    config: DatasetConfig, fetched: Mapping[str, Fetched], examples: tuple[Path, RootSource] | None = None
) -> DatasetParts:
    """Put the fetched sources in their places.

    Args:
        config: The settings, with source `named://`.
        fetched: Setting to source, for all of `named_sources`.
        examples: Where the captions are streamed: the first entries and their pictures, which stand for all.

    Raises:
        InputError: A source is of another kind than its place needs.
    """
    roots: dict[str, RootSource] = {}
    annotations: dict[str, Path] = {}
    if examples is not None:
        annotations["data.pretrain"], root = examples
        roots[root.prefix] = root
    for setting, part in _named(config).items():
        for number, images in enumerate(part.images):
            if images.prefix not in roots:
                path = _pictures(fetched[f"{setting}.images[{number}]"])
                roots[images.prefix] = RootSource(
                    images.prefix, (path,), images.inside, _target(images.prefix, len(roots))
                )
        if not setting.startswith(_FILES):
            annotations[setting] = fetched[f"{setting}.annotations"].file
    given = config.evaluation
    vqav2 = annotations.get("data.evaluation.vqav2")
    return DatasetParts(
        origin=config.source,
        pretrain=annotations["data.pretrain"],
        roots=tuple(roots.values()),
        sft=annotations.get("data.sft"),
        captioning=annotations.get("data.evaluation.captioning"),
        captioning_prefixes=_prefixes(given.captioning),
        multiple_choice=annotations.get("data.evaluation.multiple_choice"),
        mmmu=tuple(fetched[_MMMU].paths) if given.mmmu else (),
        vqav2=(fetched["data.evaluation.vqav2.questions"].file, vqav2) if vqav2 else None,
        vqav2_prefixes=_prefixes(given.vqav2),
        textvqa=annotations.get("data.evaluation.textvqa"),
        textvqa_prefixes=_prefixes(given.textvqa),
        textvqa_words=fetched[_WORDS].file if given.textvqa and given.textvqa.words else None,
        benchmarks={name: tuple(fetched[f"{_BENCHMARKS}.{name}"].paths) for name in given.benchmarks},
        benchmark_files={
            name: _annotation_files(name, fetched[f"{_FILES}.{name}.annotations"]) for name in given.benchmark_files
        },
        benchmark_prefixes={name: _prefixes(part) for name, part in given.benchmark_files.items()},
        more={f"{name}.jsonl": annotations[f"data.evaluation.more.{name}"] for name in given.more},
        sources={setting: source.shown for setting, source in fetched.items()},
    )


def _named(config: DatasetConfig) -> dict[str, AnnotatedSource]:
    """Return setting to annotations with pictures, of those that are given."""
    parts = {
        "data.pretrain": config.pretrain.annotated if config.pretrain else None,
        "data.sft": config.sft.annotated if config.sft else None,
        "data.evaluation.captioning": config.evaluation.captioning,
        "data.evaluation.multiple_choice": config.evaluation.multiple_choice,
        "data.evaluation.vqav2": config.evaluation.vqav2,
        "data.evaluation.textvqa": config.evaluation.textvqa,
        **{f"{_FILES}.{name}": part for name, part in config.evaluation.benchmark_files.items()},
        **{f"data.evaluation.more.{name}": part for name, part in config.evaluation.more.items()},
    }
    return {setting: part for setting, part in parts.items() if part is not None}


def _prefixes(part: AnnotatedSource | None) -> tuple[str, ...]:
    return tuple(images.prefix for images in part.images) if part else ()


def _annotation_files(benchmark: str, fetched: Fetched) -> tuple[Path, ...]:
    """Return the annotations of a benchmark: the one file that was named, or those of a folder that it is published in."""
    annotations = BENCHMARKS[benchmark].annotated
    if annotations is None or not fetched.is_folder:
        return tuple(fetched.paths)
    found = tuple(path for path in fetched.paths if annotations.files.search(path.as_posix()))
    if not found:
        raise InputError(
            f"{fetched.shown} has no annotations of {benchmark}: expected files whose names match {annotations.files.pattern}."
        )
    return found


def _holds_questions(path: Path) -> bool:
    """Tell whether a file of JSON lines is a task's: its first line has an id and a picture."""
    if path.name in (layout.MULTIPLE_CHOICE, layout.REJECTS):
        return False
    with open(path, "rb") as stream:
        try:
            row = json.loads(stream.readline())
        except ValueError:
            return False
    return isinstance(row, dict) and {"id", "image"} <= set(row)


def _pictures(fetched: Fetched) -> Path:
    """Return the zip of a source of pictures, or its folder."""
    if not fetched.is_folder and fetched.file.suffix.lower() == ".zip":
        return fetched.file
    archives = [name for name in fetched.names if name.lower().endswith((".zip", ".tar", ".gz", ".tgz"))]
    if archives or not fetched.is_folder:
        raise InputError(
            f"{fetched.setting} names {fetched.shown} with {(archives or fetched.names)[0]}: name one zip, or a folder of pictures."
        )
    return fetched.folder


def _validation_files(names: Sequence[str], shown: str) -> Sequence[str]:
    found = [name for name in names if _VALIDATION.search(name)]
    if not found:
        raise InputError(f"{shown} has no parquet files of MMMU's validation split (validation-*.parquet).")
    return found


def _files_of(benchmark: str) -> Choice:
    """Return what picks a benchmark's tables."""
    known = BENCHMARKS[benchmark]
    patterns = [known.files, *(known.shared[:1] if known.shared else ())]

    def choose(names: Sequence[str], shown: str) -> Sequence[str]:
        found = [[name for name in names if pattern.search(name)] for pattern in patterns]
        missing = [pattern.pattern for pattern, matching in zip(patterns, found, strict=True) if not matching]
        if missing:
            raise InputError(
                f"{shown} has no table of {benchmark}: expected files whose names match {missing[0]}, with the columns "
                f"{known.expected}."
            )
        return [name for matching in found for name in matching]

    return choose


def _target(prefix: str, number: int) -> str:
    if not prefix:
        return layout.PICTURES
    slug = re.sub(r"[^A-Za-z0-9]+", "-", prefix).strip("-")
    return f"pictures/{number:02d}-{slug}.zip"


def _described_roots(source: Path) -> tuple[RootSource, ...] | None:
    """Read `image_roots` of a raw dataset folder; None where there is none."""
    path = source / layout.DESCRIPTION
    if not path.is_file():
        return None
    try:
        entries = json.loads(path.read_bytes()).get("image_roots")
        if entries is None:
            return None
        roots = []
        for entry in entries:
            name = PurePosixPath(entry["source"])
            if name.is_absolute() or ".." in name.parts:
                raise InputError(f"{path}: the image root {entry['source']!r} lies outside the folder.")
            target = entry["source"] if name.suffix == ".zip" else f"{name}.zip"
            roots.append(RootSource(entry["prefix"], (source / name,), entry["inside"], target))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} can't be read ({error!r}): `image_roots` must be a list of {{prefix, source, inside}}."
        ) from error
    return tuple(roots)


def _find_annotations(source: Path) -> Path:
    files = [path for path in sorted(source.iterdir()) if path.is_file()]
    found = [path for path in files if path.suffix.lower() == ".json" and path.name not in _OWN_FILES]
    if len(found) == 1:
        return found[0]
    if not found:
        packed = [path.name for path in files if path.name.lower().endswith((".json.gz", ".json.zip"))]
        hint = f" Unpack {packed[0]}." if packed else ""
        raise InputError(
            f"{source} has no annotations: expected one JSON file with a list of entries, such as blip_laion_cc_sbu_558k.json.{hint}"
        )
    names = ", ".join(path.name for path in found)
    raise InputError(
        f"{source} has several JSON files ({names}): leave only the captions there (and {layout.SFT} if you have it)."
    )
