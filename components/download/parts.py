"""What a dataset in LLaVA's layout consists of, wherever its parts come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.download import layout
from components.download.pictures import RootSource


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
