"""Energon split: every sample once, energon's own tools read it, empty splits are refused."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from megatron.energon import (
    CaptioningSample,
    Cooker,
    Sample,
    TaskEncoder,
    VQASample,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_loader,
    get_savable_loader,
    get_train_dataset,
    get_val_dataset,
)
from megatron.energon.task_encoder.base import stateless
from pydantic import ValidationError

from components.context import RunContext
from components.data.image_settings import ImageSettings
from components.data.loader import LoaderSettings, TrainingLoader
from components.energon_split.config import SPLITS, BlendPart, EnergonSplitConfig, SampleType, divide, split_problem
from components.energon_split.preparation import link_shards, prepare, write_configs
from components.energon_split.stage import run_energon_split
from components.energon_split.verification import verify
from components.errors import ConfigurationError, InputError, StageError
from components.progress import Progress
from components.stage.runner import StageOutput
from components.storage.checksum import sha256_file
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.stage import run_wds_conversion
from pipelines.preset_files import load_preset
from tests.support import data_samples

COUNT = 55


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return RunContext(run_id="t", run_name="t", workspace=tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def shards(context: RunContext, tmp_path_factory: pytest.TempPathFactory) -> StageOutput:
    raw = data_samples.make_captions(tmp_path_factory.mktemp("raw"), COUNT)
    return run_wds_conversion(context, WdsConversionConfig(annotations="pretrain.json", prefix="pretrain"), raw)


@pytest.fixture(scope="module")
def split(context: RunContext, shards: StageOutput) -> StageOutput:
    return run_energon_split(context, EnergonSplitConfig(name="pretrain"), shards.folder)


def test_splits_hold_every_sample_once(split: StageOutput, shards: StageOutput) -> None:
    assert split.folder.parent.name == "pretrain"
    assert split.manifest.facts == {
        "samples": COUNT,
        "splits": {"train": 49, "val": 6, "test": 0},
        "shards": {"train": 9, "val": 1, "test": 0},
        "blended_with": 0,
    }
    for shard in (shards.folder / "shards").glob("*.tar"):
        assert (split.folder / "dataset" / shard.name).samefile(shard)
    assert not list((shards.folder / "shards").glob("*.idx"))


def test_blend_file_is_an_energon_metadataset(split: StageOutput) -> None:
    blend = yaml.safe_load((split.folder / "blend.yaml").read_text())
    (source,) = blend["splits"]["train"]["blend"]
    assert source["path"] == "dataset"
    assert source["weight"] == 1.0
    assert source["subflavors"] == {"augmentation": False}


def test_energon_reads_it_as_vqa(split: StageOutput) -> None:
    samples = _read(split.folder / "dataset", "val")
    assert len(samples) == 6
    assert isinstance(samples[0], VQASample)
    assert samples[0].image.shape == (3, 32, 40)
    assert samples[0].context == "Describe the picture.\n<image>"
    assert samples[0].answers.startswith("a red circle number 49")


def test_energon_command_line_reads_it(split: StageOutput) -> None:
    program = str(Path(sys.executable).parent / "energon")
    done = subprocess.run([program, "lint", str(split.folder / "dataset")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_datasets_with_texts_get_the_crude_type(context: RunContext, tmp_path: Path) -> None:
    entries = [data_samples.dialogue_entry(number, number % 2 == 0) for number in range(20)]
    pictures = {entry["image"]: data_samples.picture(1, "PNG") for entry in entries if "image" in entry}
    raw = data_samples.make_raw(tmp_path / "raw", entries, pictures, annotations="sft.json")
    shards = run_wds_conversion(context, WdsConversionConfig(annotations="sft.json", prefix="sft"), raw)
    split = run_energon_split(context, EnergonSplitConfig(name="sft"), shards.folder)
    assert split.manifest.facts["splits"] == {"train": 18, "val": 2, "test": 0}
    default = yaml.safe_load((split.folder / "dataset/.nv-meta/dataset.yaml").read_text())
    assert default["__class__"] == "CrudeWebdataset"


@pytest.mark.parametrize("sample_type", ["vqa", "captioning", "conversation"])
def test_energon_reads_it_as_the_type_asked_for(
    context: RunContext, shards: StageOutput, sample_type: SampleType
) -> None:
    config = EnergonSplitConfig(name=sample_type, sample_type=sample_type)
    split = run_energon_split(context, config, shards.folder)
    if sample_type == "conversation":
        samples = _crude(split.folder / "dataset", "val")
        assert len(samples) == 6
        assert json.loads(samples[0].json)[1]["value"].startswith("a red circle number 49")
        return
    samples = _read(split.folder / "dataset", "val")
    assert len(samples) == 6
    assert isinstance(samples[0], CaptioningSample if sample_type == "captioning" else VQASample)
    text = samples[0].caption if sample_type == "captioning" else samples[0].answers
    assert text.startswith("a red circle number 49")
    assert samples[0].image.shape == (3, 32, 40)


def test_types_that_need_pictures_refuse_texts(tmp_path: Path) -> None:
    (tmp_path / ".nv-meta").mkdir()
    with pytest.raises(StageError, match="sample_type captioning needs one picture .* 3 samples have none"):
        write_configs(tmp_path, {"formats": {"jpg": 9}, "text_only": 2, "several_pictures": 1}, "captioning")


@edataclass
class _Crude(Sample):
    json: bytes


@stateless
def _cook(raw: dict[str, Any]) -> _Crude:
    return _Crude(**basic_sample_keys(raw), json=raw["json"])


class _CrudeEncoder(TaskEncoder):
    cookers = (Cooker(_cook),)
    decoder = None


def _read(path: Path, split: str, **options: Any) -> list[Any]:
    config = WorkerConfig(rank=0, world_size=1, num_workers=0)
    dataset = get_val_dataset(path, split_part=split, worker_config=config, batch_size=None, **options)  # type: ignore
    loader = get_loader(dataset)
    loader.pin_memory = False
    return list(loader)


def _crude(path: Path, split: str) -> list[Any]:
    return _read(path, split, task_encoder=_CrudeEncoder())


def test_test_split(context: RunContext, shards: StageOutput) -> None:
    split = run_energon_split(context, EnergonSplitConfig(name="three", ratio=(8, 1, 1)), shards.folder)
    assert split.manifest.facts["shards"] == {"train": 8, "val": 1, "test": 1}
    assert sum(split.manifest.facts["splits"].values()) == COUNT


def test_an_empty_split_is_refused(shards: StageOutput, tmp_path: Path) -> None:
    few = sorted((shards.folder / "shards").glob("*.tar"))[:1]
    link_shards(few, tmp_path / "dataset")
    with pytest.raises(StageError, match=r"leave none for train; at least 10 are needed.*min_shards"):
        prepare(tmp_path / "dataset", (9, 1, 0), 1)


def test_a_lost_sample_is_found(shards: StageOutput, tmp_path: Path) -> None:
    link_shards(sorted((shards.folder / "shards").glob("*.tar")), tmp_path / "dataset")
    splits = prepare(tmp_path / "dataset", (9, 1, 0), 1)
    write_configs(tmp_path / "dataset", {"formats": {"jpg": 1}, "text_only": 0, "several_pictures": 0})
    assert verify(tmp_path / "dataset", splits, COUNT, 1, Progress("test"))["val"] == 6
    with pytest.raises(StageError, match=r"hold 55 samples .* wrote 56"):
        verify(tmp_path / "dataset", splits, COUNT + 1, 1, Progress("test"))


def test_a_repeated_key_is_refused(shards: StageOutput, tmp_path: Path) -> None:
    paths = sorted((shards.folder / "shards").glob("*.tar"))
    link_shards(paths, tmp_path / "dataset")
    (tmp_path / "dataset" / "pretrain-000010.tar").write_bytes(paths[0].read_bytes())
    with pytest.raises(StageError, match="key comes twice"):
        prepare(tmp_path / "dataset", (9, 1, 0), 1)


@pytest.mark.parametrize("ratio", [(7, 2, 1), (9, 1, 0), (98, 1, 1), (0.7, 0.2, 0.1)])
def test_no_shard_is_lost_to_rounding(ratio: tuple[float, float, float]) -> None:
    shards = [str(number) for number in range(100)]
    splits = divide(shards, ratio)
    assert list(itertools.chain(*splits.values())) == shards
    assert [len(part) / 100 for part in splits.values()] == pytest.approx([part / sum(ratio) for part in ratio])


@given(st.integers(1, 300), st.tuples(st.integers(1, 99), st.integers(1, 99), st.integers(0, 99)))
def test_splits_end_where_energon_ends_them(count: int, ratio: tuple[int, int, int]) -> None:
    shards = [str(number) for number in range(count)]
    splits = divide(shards, ratio)
    assert list(itertools.chain(*splits.values())) == shards
    share, start = 0.0, 0
    for name, part in zip(SPLITS, ratio, strict=True):
        share += part / sum(ratio)
        end = start + len(splits[name])
        assert end == int(count * share) or abs(count * share - end) < 1e-9  # its rounding apart
        start = end
    starved = [name for name, part in zip(SPLITS, ratio, strict=True) if part and not splits[name]]
    assert bool(split_problem(count, ratio)) == bool(starved)


def test_a_ratio_that_energon_would_lose_a_shard_at(context: RunContext, shards: StageOutput) -> None:
    split = run_energon_split(context, EnergonSplitConfig(name="rounding", ratio=(7, 2, 1)), shards.folder)
    assert split.manifest.facts["shards"] == {"train": 7, "val": 2, "test": 1}
    assert sum(split.manifest.facts["splits"].values()) == COUNT


def test_checksums_come_from_the_conversion(split: StageOutput, shards: StageOutput) -> None:
    name = "pretrain-000003.tar"
    entry = split.manifest.files[f"dataset/{name}"]
    assert entry == shards.manifest.files[f"shards/{name}"]
    assert entry.sha256 == sha256_file(split.folder / "dataset" / name)


@pytest.fixture(scope="module")
def dialogues(context: RunContext, tmp_path_factory: pytest.TempPathFactory) -> StageOutput:
    """Conversations, half of them without a picture."""
    entries = [data_samples.dialogue_entry(number, number % 2 == 0) for number in range(40)]
    pictures = {entry["image"]: data_samples.picture(1) for entry in entries if "image" in entry}
    raw = data_samples.make_raw(tmp_path_factory.mktemp("sft"), entries, pictures, annotations="sft.json")
    shards = run_wds_conversion(context, WdsConversionConfig(annotations="sft.json", prefix="sft"), raw)
    return run_energon_split(context, EnergonSplitConfig(name="dialogues"), shards.folder)


def _blended(dialogues: StageOutput, weight: float = 1.0, **settings: Any) -> EnergonSplitConfig:
    part = BlendPart(path=str(dialogues.folder), weight=3.0, subflavors={"task": "dialogue"})
    return EnergonSplitConfig(name="blended", weight=weight, blend_with=(part,), **settings)


def test_a_blend_is_read_by_energon_unaided(context: RunContext, shards: StageOutput, dialogues: StageOutput) -> None:
    split = run_energon_split(context, _blended(dialogues), shards.folder)
    assert split.manifest.facts["blended_with"] == 1
    blend = yaml.safe_load((split.folder / "blend.yaml").read_text())["splits"]
    assert [entry["weight"] for entry in blend["train"]["blend"]] == [1.0, 3.0]
    validation = [sample.__key__ for sample in _crude(split.folder / "blend.yaml", "val")]
    assert len(validation) == len(set(validation)) == 6 + 4, "validation sees everything once"
    config = WorkerConfig(rank=0, world_size=1, num_workers=0)
    dataset = get_train_dataset(
        split.folder / "blend.yaml",
        worker_config=config,
        batch_size=None,  # type: ignore[arg-type]
        shuffle_buffer_size=None,
        max_samples_per_sequence=10,
        task_encoder=_CrudeEncoder(),
    )
    # By its default energon collects garbage every tenth sample, among all objects that the tests' imports made.
    loader = get_savable_loader(dataset, gc_collect_every_n_steps=1000)
    loader.pin_memory = False
    drawn = [sample.__subflavors__ for sample in itertools.islice(loader, 800)]
    assert sum(mark == {"task": "dialogue"} for mark in drawn) / 800 == pytest.approx(0.75, abs=0.06)
    assert {"augmentation": False} in drawn


def test_training_draws_from_a_blend(
    context: RunContext, shards: StageOutput, dialogues: StageOutput, tmp_path: Path
) -> None:
    split = run_energon_split(context, _blended(dialogues), shards.folder)

    def open_loader() -> TrainingLoader:
        return TrainingLoader(
            split.folder,
            LoaderSettings(prompt_format="instruct", sequence_length=200, shuffle_buffer=4),
            tokenizer=data_samples.make_tokenizer(tmp_path / "tokenizer"),
            image=ImageSettings(size=28, patch=14),
            samples_per_batch=8,
        )

    loader = open_loader()
    keys = [sample.key for _, batch in zip(range(8), loader, strict=False) for sample in batch]
    state = loader.state()
    following = [sample.key for sample in next(loader)]
    assert {key[0] for key in keys} == {"d", "0"}
    resumed = open_loader()
    resumed.restore([state])
    assert [sample.key for sample in next(resumed)] == following


def test_a_blend_with_another_content_is_another_dataset(
    context: RunContext, shards: StageOutput, dialogues: StageOutput, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dialogues.folder / "dataset", copy)
    config = EnergonSplitConfig(name="blended", blend_with=(BlendPart(path=str(copy)),))
    first = run_energon_split(context, config, shards.folder)
    assert run_energon_split(context, config, shards.folder).reused
    (copy / ".nv-meta/index.uuid").write_text("another")
    assert run_energon_split(context, config, shards.folder).folder != first.folder


def test_datasets_that_can_not_be_blended_are_explained(
    context: RunContext, shards: StageOutput, dialogues: StageOutput, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dialogues.folder / "dataset", copy)

    def problem() -> str:
        config = EnergonSplitConfig(name="blended", blend_with=(BlendPart(path=str(copy)),))
        with pytest.raises(InputError) as caught:
            run_energon_split(context, config, shards.folder)
        return str(caught.value)

    meta = copy / ".nv-meta"
    crude = (meta / "conversation.yaml").read_text()
    split_file = (meta / "split.yaml").read_text()
    for name in ("conversation.yaml", "dataset.yaml"):
        (meta / name).write_text("sample_type: {__module__: megatron.energon, __class__: VQASample}")
    assert "neither conversation.yaml nor dataset.yaml" in problem()
    (meta / "conversation.yaml").write_text(crude)
    (meta / "split.yaml").write_text("exclude: []")
    assert "has no `split_parts`" in problem()
    (meta / "split.yaml").write_text("split_parts: {val: [sft-000000.tar]}")
    assert "has no shards for training" in problem()
    (meta / "split.yaml").write_text("split_parts: {train: ['sft-{000000..000099}.tar']}")
    assert "lacks 90 shards" in problem()
    (meta / "split.yaml").write_text(split_file)
    shard = copy / "sft-000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b".json\0", b".text\0"))
    assert "its first sample is not as ours" in problem()
    shard.write_bytes(content)
    (meta / ".info.json").unlink()
    assert "not a dataset that energon has prepared" in problem()
    shutil.rmtree(copy)
    assert "does not exist here" in problem()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blend_with": [{"path": "relative"}]}, "pattern"),
        ({"blend_with": [{"path": "/a", "weight": 0}]}, "greater than 0"),
        ({"blend_with": [{"path": "/a", "weight": "inf"}]}, "finite"),
        ({"blend_with": [{"path": "/a"}, {"path": "/a"}]}, "twice"),
        ({"weight": -1}, "greater than 0"),
        ({"ratio": [9, 0, 1]}, "above 0"),
        ({"sample_type": "ocr"}, "sample_type"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EnergonSplitConfig.model_validate({"name": "x", **changes})


def test_too_few_shards_for_the_ratio_are_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigurationError, match=r"wds_conversion.sft.min_shards \(10\) .* at least 100 are needed"):
        load_preset("laptop", ["energon_split.sft.ratio=[98, 1, 1]"])
    load_preset("laptop", ["energon_split.sft.ratio=[98, 1, 1]", "wds_conversion.sft.min_shards=100"])
