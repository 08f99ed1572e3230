"""Energon split: every sample once, energon's own tools read it, empty splits are refused."""

import subprocess
import sys
from pathlib import Path

import data_samples
import pytest
import yaml
from megatron.energon import VQASample, WorkerConfig, get_loader, get_val_dataset

from components.energon_split.config import EnergonSplitConfig
from components.energon_split.preparation import link_shards, prepare, write_configs
from components.energon_split.stage import run_energon_split
from components.energon_split.verification import verify
from components.errors import StageError
from components.stage.context import RunContext
from components.stage.progress import Progress
from components.stage.runner import StageOutput
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.stage import run_wds_conversion

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
    config = WorkerConfig(rank=0, world_size=1, num_workers=0)
    dataset = get_val_dataset(split.folder / "dataset", worker_config=config, batch_size=None)  # type: ignore[arg-type]
    loader = get_loader(dataset)
    loader.pin_memory = False
    samples = list(loader)
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


def test_test_split(context: RunContext, shards: StageOutput) -> None:
    split = run_energon_split(context, EnergonSplitConfig(name="three", ratio=(8, 1, 1)), shards.folder)
    assert split.manifest.facts["shards"] == {"train": 8, "val": 1, "test": 1}
    assert sum(split.manifest.facts["splits"].values()) == COUNT


def test_an_empty_split_is_refused(shards: StageOutput, tmp_path: Path) -> None:
    few = sorted((shards.folder / "shards").glob("*.tar"))[:1]
    link_shards(few, tmp_path / "dataset")
    with pytest.raises(StageError, match=r"split has no shard.*min_shards"):
        prepare(tmp_path / "dataset", (9, 1, 0), 1)


def test_a_lost_sample_is_found(shards: StageOutput, tmp_path: Path) -> None:
    link_shards(sorted((shards.folder / "shards").glob("*.tar")), tmp_path / "dataset")
    splits = prepare(tmp_path / "dataset", (9, 1, 0), 1)
    write_configs(tmp_path, ["jpg"], 0)
    assert verify(tmp_path / "blend.yaml", splits, COUNT, 1, Progress("test"))["val"] == 6
    with pytest.raises(StageError, match=r"hold 55 samples .* wrote 56"):
        verify(tmp_path / "blend.yaml", splits, COUNT + 1, 1, Progress("test"))


def test_a_repeated_key_is_refused(shards: StageOutput, tmp_path: Path) -> None:
    paths = sorted((shards.folder / "shards").glob("*.tar"))
    link_shards(paths, tmp_path / "dataset")
    (tmp_path / "dataset" / "pretrain-000010.tar").write_bytes(paths[0].read_bytes())
    with pytest.raises(StageError, match="key comes twice"):
        prepare(tmp_path / "dataset", (9, 1, 0), 1)
