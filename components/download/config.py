"""Settings of the download of data."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.download.benchmarks.registry import BENCHMARKS
from components.download.multiple_choice import AnswerForm
from components.sources.config import Mixture
from components.storage.config import TransferConfig
from components.storage.uri import Source

SCENES = "scenes://"
NAMED = "named://"


class ScenesConfig(BaseModel):
    """What the drawn scenes are like (source `scenes://`).

    Attributes:
        pictures: Training pictures; each gives one captioning entry and one conversation.
        held_out_pictures: Pictures for evaluation: five reference captions and one multiple-choice question each.
        held_out_share (fraction): Share of the combinations (which coloured shapes meet, which thing is where) that training
            never shows and that all evaluation pictures show.
        two_things_share (fraction): Share of the pictures that show two things instead of one.
        questions: Multiple-choice turns in a conversation of `sft.json`, at most.
        side (pixels): Width and height of a picture in pixels.
        answer_form: What answers multiple-choice questions: the option's "letter" (as in MMMU; task
            `multiple_choice`) or its "text" (for very small models; task `multiple_choice_text`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: int = Field(default=6000, ge=10)
    held_out_pictures: int = Field(default=200, ge=4)
    held_out_share: float = Field(default=0.1, gt=0, le=0.5)
    two_things_share: float = Field(default=0.5, ge=0, le=1)
    questions: int = Field(default=3, ge=1)
    side: int = Field(default=128, ge=32, le=1024)
    answer_form: AnswerForm = "letter"


class FolderConfig(BaseModel):
    """How a dataset in LLaVA's layout is taken in (every source but `scenes://`).

    Attributes:
        held_out_pictures: Pictures that are taken out of training for evaluation, where the source has no evaluation
            data of its own. Where that is more than half of all, a quarter, and at least 4.
        max_reject_share (fraction): Largest share of entries that may be unusable (no caption, no such picture, another layout)
            before the stage fails. Rejected entries are listed in `rejects.jsonl`.
        licence: Licence of the data, for `dataset.json`.
        answer_form: As in `ScenesConfig`, for questions that are derived from captions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    held_out_pictures: int = Field(default=1000, ge=4)
    max_reject_share: float = Field(default=0.01, ge=0, le=1)
    licence: str = "unknown: see the source"
    answer_form: AnswerForm = "letter"


class PictureSource(BaseModel):
    """Where the pictures are whose names begin with a prefix.

    Attributes:
        uri: A zip (used as it is, neither unpacked nor written again), or a folder of pictures (packed into a zip).
        prefix: What the names in the annotations begin with, as "coco/train2017/". A name belongs to the longest one.
        inside: What stands in the zip instead of the prefix, as "train2017/"; left out, it is found by looking.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: Source
    prefix: str = Field(default="", pattern=r"^([^/].*/)?$")
    inside: str | None = Field(default=None, pattern=r"^([^/].*/)?$")


class AnnotatedSource(BaseModel):
    """Annotations and their pictures, from places of their own.

    Attributes:
        annotations: URI of the annotations' file.
        images: Where the pictures are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    annotations: Source
    images: tuple[PictureSource, ...] = ()


class TrainingSource(BaseModel):
    """What a training stage learns from: one annotation file with its pictures, or datasets that are streamed.

    Attributes:
        annotations: URI of the annotations' file.
        images: Where its pictures are.
        datasets: Instead of these: datasets of any format and layout, one or a mixture.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    annotations: Source = ""
    images: tuple[PictureSource, ...] = ()
    datasets: Mixture = ()

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if bool(self.annotations) == bool(self.datasets):
            raise ValueError("give either annotations (and images), or datasets")
        if self.images and not self.annotations:
            raise ValueError("images are those of annotations; datasets name their own")
        return self

    @property
    def annotated(self) -> AnnotatedSource | None:
        """The annotations; None where datasets are streamed."""
        return AnnotatedSource(annotations=self.annotations, images=self.images) if self.annotations else None


class QuestionsSource(AnnotatedSource):
    """Questions with their answers in another file, and their pictures.

    Attributes:
        questions: URI of the questions' file.
    """

    questions: Source


class TextSource(AnnotatedSource):
    """Questions about text in pictures, and their pictures.

    Attributes:
        words: URI of a file with the words that OCR found, `TextVQA_Rosetta_OCR_v0.2_val.json`; empty to take those of the
            annotations, if they have any.
    """

    words: Source = ""


class EvaluationSources(BaseModel):
    """Evaluation data; captions and multiple-choice questions that are left out are made of held-out pictures.

    Attributes:
        captioning: Captions in COCO's layout. Pictures without a file name (as in the Karpathy files) are found by the
            number at the end of their name.
        multiple_choice: Questions as in `multiple_choice.jsonl` of a raw dataset folder.
        mmmu: MMMU: a folder, or dataset of the hub, with parquet files of the validation split; gives `mmmu.jsonl`.
        vqav2: VQAv2: `v2_OpenEnded_mscoco_val2014_questions.json` and `v2_mscoco_val2014_annotations.json`, or the zips
            that they are published in; gives `vqav2.jsonl`.
        textvqa: TextVQA: `TextVQA_0.5.1_val.json`; gives `textvqa.jsonl`.
        benchmarks: Benchmarks by the names of their tasks (pope, mme, scienceqa, ai2d, chartqa, docvqa, infovqa, gqa, mmbench,
            seedbench, realworldqa, ocrbench, mmmu_pro, mmmu_pro_vision, textvqa, nocaps, flickr30k): NAME to the dataset of
            the hub, or a folder, with tables that hold the pictures; `vlm tasks NAME` says which.
        benchmark_files: The same, from their authors' own annotations and pictures: pope (the folder of coco_pope_*.json),
            mme (the folder of a file for every subtask, as in its eval_tool/Your_Results), chartqa (the folder of
            test_human.json and test_augmented.json), scienceqa (problems.json), ocrbench, seedbench, gqa, nocaps.
        more: Questions of tasks of your own: NAME to JSON lines with `id`, `image` and whatever the task's kind reads;
            gives `NAME.jsonl`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    captioning: AnnotatedSource | None = None
    multiple_choice: AnnotatedSource | None = None
    mmmu: Source = ""
    vqav2: QuestionsSource | None = None
    textvqa: TextSource | None = None
    benchmarks: dict[str, Source] = {}
    benchmark_files: dict[str, AnnotatedSource] = {}
    more: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], AnnotatedSource] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        taken = sorted({"multiple_choice", "mmmu", "vqav2", "textvqa", "rejects", *BENCHMARKS} & set(self.more))
        if taken:
            raise ValueError(f"more: {taken[0]}.jsonl is another file of the dataset; choose another name")
        known = {
            "benchmarks": list(BENCHMARKS),
            "benchmark_files": [name for name, one in BENCHMARKS.items() if one.annotated],
        }
        for setting, names in known.items():
            unknown = sorted(set(getattr(self, setting)) - set(names))
            if unknown:
                raise ValueError(f"{setting}: {unknown[0]!r} is not one of {', '.join(names)}")
        twice = sorted(set(self.benchmarks) & {*self.benchmark_files, *(("textvqa",) if self.textvqa else ())})
        if twice:
            raise ValueError(f"benchmarks: {twice[0]} is named twice; leave one of them out")
        return self


class DatasetConfig(BaseModel):
    """Where the data comes from.

    Attributes:
        source: `scenes://` (drawn by this stage); a folder in LLaVA-Pretrain's layout as `file:///FOLDER`,
            `s3://BUCKET/PREFIX`, `hf://datasets/ORG/NAME` or `https://HOST/FOLDER/` (this one with a lock file);
            or a dataset of another format, a file or a folder, that is streamed; or `named://`: what `pretrain`, `sft` and
            `evaluation` name.
        name: Name of the dataset in reports.
        seed: Seed of the scenes, of what is held out, and of derived questions.
        scenes: Settings of `scenes://`.
        folder: Settings of all other sources.
        pretrain: Captions (source `named://`).
        sft: Conversations (source `named://`); left out, they are derived from the captions, or the streamed datasets of
            `pretrain` are taken.
        evaluation: Evaluation data (source `named://`).
        lock: URI of a lock file that the sources must agree with, as a download leaves it; empty for no check.
        transfer: How files are fetched.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Source = SCENES
    name: str = "scenes"
    seed: int = 0
    scenes: ScenesConfig = ScenesConfig()
    folder: FolderConfig = FolderConfig()
    pretrain: TrainingSource | None = None
    sft: TrainingSource | None = None
    evaluation: EvaluationSources = EvaluationSources()
    lock: Source = ""
    transfer: TransferConfig = TransferConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.source == NAMED and self.pretrain is None:
            raise ValueError("source is named://, so pretrain must name annotations and images, or datasets")
        return self
