"""Datasets that are streamed: recorded, pictures held out of them, and one run from a source to a blend without a copy."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.context import RunContext
from components.download.config import DatasetConfig
from components.download.random_weights import ControlTokens, train_tokenizer
from components.download.stage import run_download_dataset
from components.errors import ConfigurationError, InputError
from components.model.families.language.mistral import MISTRAL
from components.sources.recorded import mixture_file, read_mixture
from components.stage.runner import StageOutput
from components.tasks.loading import load_task
from components.tasks.template import LETTERS
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.stage import run_wds_conversion
from tests.support import data_samples, table_datasets
from tests.support.data_samples import picture
from tests.support.table_datasets import rows_of
from tests.unit.wds_conversion.test_wds_conversion import _samples

COUNT = 60


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(run_id="t", run_name="t", workspace=tmp_path / "workspace")


def download(context: RunContext, **settings: Any) -> StageOutput:
    folder = {"held_out_pictures": 8}
    return run_download_dataset(context, DatasetConfig.model_validate({"folder": folder, **settings}))


def convert(context: RunContext, raw: Path, stage: str) -> StageOutput:
    return run_wds_conversion(context, WdsConversionConfig(annotations=f"{stage}.json", prefix=stage), raw)


def test_a_parquet_file_is_a_source(context: RunContext, tmp_path: Path) -> None:
    table_datasets.write_parquet(tmp_path / "data.parquet", rows_of("captions", COUNT))
    raw = download(context, source=(tmp_path / "data.parquet").as_uri(), name="mine")
    facts = raw.manifest.facts
    assert (facts["pretrain_entries"], facts["sft_entries"], facts["held_out_pictures"]) == (COUNT, COUNT, 8)
    truth = json.loads((raw.folder / "captioning.json").read_text())
    assert len(truth["annotations"]) == 5 * 8
    with zipfile.ZipFile(raw.folder / "pictures/streamed.zip") as archive:
        kept = {hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
    assert len(kept) == 8
    assert kept <= {hashlib.sha256(picture(number)).hexdigest() for number in range(COUNT)}
    assert set(read_mixture(mixture_file(raw.folder / "pretrain.json")).held_out) == kept
    for stage in ("pretrain", "sft"):
        shards = convert(context, raw.folder, stage)
        facts = shards.manifest.facts
        assert (facts["samples"], facts["left_out"]) == (5 * (COUNT - 8), {"held_out": 5 * 8})
        for fields in _samples(shards.folder).values():
            check_question(stage, json.loads(fields["json"]), raw.folder)
    assert train_tokenizer(raw.folder, 300, ControlTokens.of(MISTRAL)).get_vocab_size() == 300
    again = download(context, source=(tmp_path / "data.parquet").as_uri(), name="mine")
    assert again.reused


def check_question(stage: str, conversation: list[dict[str, str]], raw: Path) -> None:
    """Fine-tuning asks after a caption which of four captions it is; the wrong ones are of other pictures, none held out."""
    if stage == "pretrain":
        assert len(conversation) == 2
        return
    caption, asked, answer = (turn["value"] for turn in conversation[1:])
    prompt = load_task("multiple_choice").prompt
    begin, _, end = prompt.template.partition("{options}")
    assert asked.startswith(begin.format(question="Which caption describes the picture?"))
    options = asked.removesuffix(end).splitlines()[-4:]
    right = LETTERS.index(answer)
    assert options[right] == prompt.option.format(letter=answer, text=caption)
    number = caption.partition(" of ")[0]
    assert sum(number in option.split(") ")[1].split(" of ")[0].split("/") for option in options) == 1
    held_out = {item["caption"] for item in json.loads((raw / "captioning.json").read_text())["annotations"]}
    assert not any(option.endswith(true) for option in options for true in held_out)


def test_conversations_get_no_questions(context: RunContext, tmp_path: Path) -> None:
    table_datasets.write_parquet(tmp_path / "data" / "train.parquet", rows_of("questions", COUNT))
    raw = download(context, source=(tmp_path / "data").as_uri())
    assert read_mixture(mixture_file(raw.folder / "sft.json")).datasets[0].questions is None
    assert json.loads((raw.folder / "dataset.json").read_text())["sft"] == "streamed"


def test_a_changed_source_is_another_download(context: RunContext, tmp_path: Path) -> None:
    keys = []
    for count in (COUNT, COUNT + 1):
        table_datasets.write_parquet(tmp_path / "data" / "train.parquet", rows_of("questions", count))
        keys.append(download(context, source=(tmp_path / "data").as_uri()).folder)
    assert keys[0] != keys[1]


def test_chat_is_pretrained_on_its_first_turns(context: RunContext, tmp_path: Path) -> None:
    rows = rows_of("sharegpt", COUNT)
    table_datasets.write_json_lines(tmp_path / "data" / "chat.jsonl", rows)
    raw = download(context, source=(tmp_path / "data").as_uri())
    turns = {
        stage: read_mixture(mixture_file(raw.folder / f"{stage}.json")).datasets[0].turns
        for stage in ("pretrain", "sft")
    }
    assert turns == {"pretrain": "first", "sft": "all"}


def test_a_folder_in_llavas_layout_is_read_as_before(context: RunContext, tmp_path: Path) -> None:
    raw = data_samples.make_captions(tmp_path / "raw", COUNT)
    (raw / "dataset.json").unlink(missing_ok=True)
    output = download(context, source=raw.as_uri())
    assert output.manifest.facts["pretrain_entries"] == COUNT - 8
    assert not list(output.folder.glob("*.mixture.json"))


def test_mixture_with_given_captions(context: RunContext, tmp_path: Path) -> None:
    """A mixture for fine-tuning beside captions in LLaVA's layout; what is held out of these is left out of the mixture."""
    raw = data_samples.make_captions(tmp_path / "raw", COUNT)
    with zipfile.ZipFile(raw / "images.zip") as archive:
        names = archive.namelist()
        rows = [
            {"image": {"bytes": archive.read(name), "path": None}, "question": "?", "answer": name} for name in names
        ]
    table_datasets.write_parquet(tmp_path / "vqa" / "train.parquet", rows)
    table_datasets.write_parquet(tmp_path / "chat" / "train.parquet", rows_of("sharegpt", 30))
    output = download(
        context,
        source="named://",
        pretrain={
            "annotations": (raw / "pretrain.json").as_uri(), "images": [{"uri": (raw / "images.zip").as_uri()}]
        },
        sft={
            "datasets": [
                {"uri": (tmp_path / "vqa").as_uri(), "weight": 2, "cap": 40},
                {"uri": (tmp_path / "chat").as_uri(), "filters": {"min_side": 20}},
            ]
        },
    )  # fmt: skip
    facts = output.manifest.facts
    assert facts["pretrain_entries"] == COUNT - 8
    assert (facts["sft_entries"], facts["sft_datasets"]) == (70, {"vqa": 40, "chat": 30})
    assert not mixture_file(output.folder / "pretrain.json").exists()
    mixture = read_mixture(mixture_file(output.folder / "sft.json"))
    assert [(dataset.name, dataset.weight) for dataset in mixture.datasets] == [("vqa", 2), ("chat", 1)]
    shards = convert(context, output.folder, "sft").manifest.facts
    assert set(shards["datasets"]) == {"vqa", "chat"}
    vqa = shards["datasets"]["vqa"]
    assert vqa["left_out"].pop("cap") == COUNT - 40
    assert vqa["samples"] + sum(vqa["left_out"].values()) == 40


def test_streamed_captions_take_given_evaluation_data(context: RunContext, tmp_path: Path) -> None:
    evaluation = data_samples.make_captions(tmp_path / "raw", COUNT)
    truth = {
        "images": [{"id": n, "file_name": f"train/{n:08d}.jpg"} for n in range(5)],
        "annotations": [{"id": n, "image_id": n, "caption": f"a circle of {n}"} for n in range(5)],
    }
    (evaluation / "truth.json").write_text(json.dumps(truth))
    table_datasets.write_parquet(tmp_path / "data" / "train.parquet", rows_of("captions", COUNT))
    raw = download(
        context,
        source="named://",
        pretrain={"datasets": [{"uri": (tmp_path / "data").as_uri()}]},
        evaluation={
            "captioning": {
                "annotations": (evaluation / "truth.json").as_uri(),
                "images": [{"prefix": "train/", "uri": (evaluation / "images.zip").as_uri(), "inside": "train/"}],
            }
        },
    )
    assert raw.manifest.facts["held_out_pictures"] == 5
    assert raw.manifest.facts["pretrain_entries"] == COUNT


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretrain": {"images": []}}, "give either annotations .* or datasets"),
        ({"pretrain": {"annotations": "file:///a.json", "datasets": [{"uri": "file:///x"}]}}, "give either"),
        ({"pretrain": {"datasets": [{"uri": "file:///x", "layout": "lava"}]}}, "there is no layout 'lava'"),
        ({"pretrain": {"datasets": [{"uri": "file:///x", "cap": 0}]}}, "cap"),
    ],
)
def test_settings_that_can_not_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DatasetConfig.model_validate({"source": "named://", **settings})


def test_what_can_not_be_streamed_is_said(context: RunContext, tmp_path: Path) -> None:
    table_datasets.write_parquet(tmp_path / "a" / "x.parquet", rows_of("questions", 20))
    uri = (tmp_path / "a").as_uri()
    same = {"datasets": [{"uri": uri}, {"uri": uri}]}
    with pytest.raises(ConfigurationError, match="two datasets are called 'a'. Give each a `name`"):
        download(context, source="named://", pretrain=same)
    (tmp_path / "lock.json").write_text('{"sources": {}}')
    with pytest.raises((ConfigurationError, InputError), match=r"lock"):
        download(context, source=uri, lock=(tmp_path / "lock.json").as_uri())
    table_datasets.write_parquet(tmp_path / "t" / "x.parquet", [{"question": "?", "answer": "yes"}] * 20)
    with pytest.raises(InputError, match="none of the first rows has one picture with a text"):
        download(context, source=(tmp_path / "t").as_uri())
