"""A mixture is one blend: energon prepares each dataset, training draws from them by their weights, and all is read back."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from components.context import RunContext
from components.data.image_settings import ImageSettings
from components.data.loader import LoaderSettings, TrainingLoader
from components.energon_split.config import EnergonSplitConfig
from components.energon_split.stage import run_energon_split
from components.sources.config import DatasetSource
from components.stage.runner import StageOutput
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.stage import run_wds_conversion
from tests.support import data_samples, table_datasets
from tests.support.finished import finish
from tests.support.table_datasets import rows_of
from tests.unit.wds_conversion.test_streamed import record


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> StageOutput:
    folder = tmp_path_factory.mktemp("mixture")
    sources = []
    # Where one name begins as another, shards must not be taken for the other's.
    for name, layout, count, weight in (("a", "questions", 60, 3.0), ("a-b", "cauldron", 40, 1.0)):
        table_datasets.write_parquet(folder / name / "train.parquet", rows_of(layout, count))
        sources.append(DatasetSource(uri=(folder / name).as_uri(), name=name, weight=weight))
    raw = finish(record(folder / "raw", *sources), "download/dataset")
    context = RunContext(run_id="t", run_name="t", workspace=folder / "workspace")
    shards = run_wds_conversion(context, WdsConversionConfig(annotations="pretrain.json", prefix="sft"), raw)
    return run_energon_split(context, EnergonSplitConfig(name="sft", weight=2.0), shards.folder)


def test_every_dataset_is_prepared_and_weighed(split: StageOutput) -> None:
    blend = yaml.safe_load((split.folder / "blend.yaml").read_text())
    entries = blend["splits"]["train"]["blend"]
    assert [(entry["path"], entry["weight"]) for entry in entries] == [("dataset/a", 1.5), ("dataset/a-b", 0.5)]
    facts = split.manifest.facts
    assert facts["samples"] == 100
    assert facts["splits"] == {"train": 54 + 36, "val": 6 + 4, "test": 0}
    assert facts["datasets"]["a"] == {
        "samples": 60, "splits": {"train": 54, "val": 6, "test": 0}, "shards": {"train": 9, "val": 1, "test": 0},
        "weight": 1.5,
    }  # fmt: skip
    assert len(list((split.folder / "dataset/a").glob("*.tar"))) == 10
    assert all("dataset/a" in name for name in split.manifest.files if name.endswith(".tar"))


def test_training_draws_by_weight(split: StageOutput, tmp_path: Path) -> None:
    loader = TrainingLoader(
        split.folder,
        LoaderSettings(prompt_format="instruct", sequence_length=200, shuffle_buffer=4),
        tokenizer=data_samples.make_tokenizer(tmp_path / "tokenizer"),
        image=ImageSettings(size=28, patch=14),
        samples_per_batch=8,
    )
    samples = [sample for _, batch in zip(range(50), loader, strict=False) for sample in batch]
    drawn = Counter((sample.key.rpartition("-")[0], sample.pixels.shape[0]) for sample in samples)
    assert set(drawn) == {("a", 1), ("a-b", 2)}
    assert 0.68 < drawn["a", 1] / drawn.total() < 0.82
