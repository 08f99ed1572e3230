"""A dataset's parts from places of their own, as the source `named://` has them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.download import layout
from components.download.benchmarks.registry import BENCHMARKS
from components.download.config import AnnotatedSource, DatasetConfig, QuestionsSource
from components.download.fetched import Choice, Fetched, Wanted
from components.download.parts import DatasetParts
from components.download.pictures import RootSource
from components.errors import ConfigurationError, InputError

_VALIDATION = re.compile(r"(^|/)validation-[^/]*\.parquet$")
_MMMU = "data.evaluation.mmmu"
_WORDS = "data.evaluation.textvqa.words"
_BENCHMARKS = "data.evaluation.benchmarks"
_FILES = "data.evaluation.benchmark_files"


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
