"""Streamed datasets become shards: every layout, mixtures with caps and filters, kills, parts; the bytes unchanged."""

import hashlib
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from components.context import RunContext
from components.data.asked_questions import found_in, question_hash
from components.errors import InputError
from components.progress import Progress
from components.sources.config import DatasetSource, Filters
from components.sources.recorded import RecordedMixture, mixture_file, write_mixture
from components.sources.recording import look_at
from components.storage.config import TransferConfig
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.conversion import convert
from components.wds_conversion.left_out import left_out_pictures
from components.wds_conversion.stage import run_wds_conversion, run_wds_conversion_merge, run_wds_conversion_part
from tests.support import table_datasets
from tests.support.data_samples import picture
from tests.support.finished import finish
from tests.support.table_datasets import LAYOUTS, rows_of
from tests.support.waiting import wait_for
from tests.unit.wds_conversion.test_wds_conversion import _content, _rejects, _samples

CONFIG = WdsConversionConfig(annotations="pretrain.json", prefix="pretrain")


def record(raw: Path, *sources: DatasetSource, held_out: tuple[str, ...] = ()) -> Path:
    """Write what the download records of datasets."""
    raw.mkdir(parents=True, exist_ok=True)
    looked = [look_at(source, "a test", TransferConfig(), Progress("test")).dataset for source in sources]
    write_mixture(mixture_file(raw / "pretrain.json"), RecordedMixture(datasets=tuple(looked), held_out=held_out))
    return raw


def dataset(path: Path, layout: str, count: int, **settings: Any) -> DatasetSource:
    """Write a dataset as parquet and return its settings."""
    table_datasets.write_parquet(path / "train.parquet", rows_of(layout, count))
    return DatasetSource(uri=path.as_uri(), name=path.name, **settings)


def _convert(raw: Path, folder: Path, processes: int = 1, **changes: Any) -> dict[str, Any]:
    config = CONFIG.model_copy(update=changes)
    return convert(raw, folder, config, processes, Progress("test"), rows_per_process=1).facts


def _found(samples: dict[str, dict[str, bytes]]) -> list[tuple[list[bytes], list[str]]]:
    """Return pictures and texts of samples, in the order of their keys."""
    found = []
    for _, fields in sorted(samples.items()):
        pictures = [content for name, content in sorted(fields.items()) if name != "json"]
        found.append((pictures, [turn["value"] for turn in json.loads(fields["json"])]))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_becomes_samples(layout: str, tmp_path: Path) -> None:
    raw = record(tmp_path / "raw", dataset(tmp_path / "data", layout, 25))
    facts = _convert(raw, tmp_path / "out")
    expected = [sample for number in range(25) for sample in LAYOUTS[layout].expected(number)]
    found = _found(_samples(tmp_path / "out"))
    assert facts["samples"] == len(expected) == len(found)
    assert (facts["shards"], facts["entries"], facts["rejected"]) == (10, 25, 0)
    for (pictures, texts), (true_pictures, pairs) in zip(found, expected, strict=True):
        assert pictures == true_pictures
        assert [text.replace("<image>\n", "") for text in texts] == [text for pair in pairs for text in pair]
    assert facts["datasets"]["data"]["layout"] == layout


def test_questions_that_are_asked_are_noted(tmp_path: Path) -> None:
    """Of samples that stay alone, and again for a shard whose list is gone."""
    held_out = (hashlib.sha256(picture(3)).hexdigest(),)
    rows = rows_of("questions", 12)
    rows[3]["question"], rows[5]["question"] = "Only of the test?", "Is it the fifth?"
    table_datasets.write_parquet(tmp_path / "data" / "train.parquet", rows)
    raw = record(tmp_path / "raw", DatasetSource(uri=(tmp_path / "data").as_uri()), held_out=held_out)
    asked = {question_hash(text) for text in ("what is it", "is it the fifth")}
    wanted = asked | {question_hash("Only of the test?")}
    for _ in range(2):
        assert (
            _convert(raw, tmp_path / "out")["questions_noted"] == 10
        )  # of ten shards each; two have a row more, one of them the held-out one
        assert found_in(tmp_path / "out" / "questions", wanted) == asked
        sorted((tmp_path / "out" / "questions").iterdir())[0].unlink()


def test_several_pictures_are_numbered_fields(tmp_path: Path) -> None:
    raw = record(tmp_path / "raw", dataset(tmp_path / "data", "cauldron", 12))
    facts = _convert(raw, tmp_path / "out")
    samples = _samples(tmp_path / "out")
    assert list(samples["data-000000007"]) == ["0.jpg", "1.png", "json"]
    assert (facts["several_pictures"], facts["text_only"], facts["formats"]) == (12, 0, {"jpg": 12, "png": 12})


def test_texts_alone_are_counted(tmp_path: Path) -> None:
    rows = [{"image": None, "question": f"{n}?", "answer": "yes"} for n in range(11)]
    table_datasets.write_parquet(tmp_path / "data" / "x.parquet", rows)
    raw = record(tmp_path / "raw", DatasetSource(uri=(tmp_path / "data").as_uri()))
    assert _convert(raw, tmp_path / "out")["text_only"] == 11


def test_bytes_do_not_depend_on_processes(tmp_path: Path) -> None:
    sources = [dataset(tmp_path / name, layout, 31) for name, layout in (("a", "captions"), ("b", "cauldron"))]
    raw = record(tmp_path / "raw", *sources)
    _convert(raw, tmp_path / "one", 1)
    _convert(raw, tmp_path / "two", 2)
    assert _content(tmp_path / "one") == _content(tmp_path / "two")


def test_mixture_says_how_many_came_from_where_and_why_others_did_not(tmp_path: Path) -> None:
    rated = [{**row, "relevance_min": 1 + n % 5, "more": [3, n]} for n, row in enumerate(rows_of("cauldron", 40))]
    table_datasets.write_parquet(tmp_path / "rated" / "x.parquet", rated)
    small = rows_of("captions", 30)
    for n in (3, 7):
        small[n]["image"] = {"bytes": picture(n, size=(40, 10)), "path": None}
    small[4]["image"] = {"bytes": picture(4, size=(300, 33)), "path": None}
    small[9]["caption"] = ["no"]
    small[11]["image"] = {"bytes": b"not a picture", "path": None}
    table_datasets.write_parquet(tmp_path / "small" / "x.parquet", small)
    raw = record(
        tmp_path / "raw",
        DatasetSource(
            uri=(tmp_path / "rated").as_uri(), name="rated", weight=3, filters=Filters(scores={"relevance_min": 3})
        ),
        DatasetSource(
            uri=(tmp_path / "small").as_uri(), name="small", filters=Filters(min_side=16, max_aspect=4, min_text=5)
        ),
        dataset(tmp_path / "capped", "questions", 100, cap=20),
        held_out=(hashlib.sha256(picture(5)).hexdigest(),),
    )
    facts = _convert(raw, tmp_path / "out", max_reject_share=0.05, samples_per_shard=4)
    datasets = facts["datasets"]
    # 8 of 40 rows have each rating; the held-out picture is in row 5 of `small` and `capped`, and row 5 of `rated` is rated 1.
    assert datasets["rated"]["left_out"] == {"score relevance_min": 16}
    assert datasets["rated"]["samples"] == 24
    assert datasets["small"]["left_out"] == {"held_out": 5, "max_aspect": 5, "min_side": 10, "min_text": 1}
    assert datasets["small"]["reject_causes"] == {"unknown_format": 1}
    assert datasets["small"]["samples"] == 5 * 24
    assert datasets["capped"]["left_out"] == {"cap": 80, "held_out": 1}
    assert datasets["capped"]["samples"] == 19
    assert facts["left_out"] == {
        "cap": 80,
        "held_out": 6,
        "max_aspect": 5,
        "min_side": 10,
        "min_text": 1,
        "score relevance_min": 16,
    }
    assert facts["samples"] == 24 + 120 + 19
    assert {name: counts["weight"] for name, counts in datasets.items()} == {"rated": 3, "small": 1, "capped": 1}
    (reject,) = _rejects(tmp_path / "out")
    assert (reject["id"], reject["row"]) == ("small-11", 40 + 11)
    assert {path.name for path in (tmp_path / "out" / "left_out").iterdir()} == {"held_out", "max_aspect", "min_side"}
    (shown,) = left_out_pictures(tmp_path / "out", "max_aspect", 1)
    with Image.open(shown) as image:
        assert image.size == (300, 33)
    names = {path.name.rpartition("-")[0] for path in (tmp_path / "out" / "shards").iterdir()}
    assert names == {"pretrain-rated", "pretrain-small", "pretrain-capped"}


def test_rows_that_can_not_be_used_stop_the_conversion(tmp_path: Path) -> None:
    rows = [{"image": f"gone-{n}.jpg", "question": "?", "answer": "yes"} for n in range(20)]
    table_datasets.write_json_lines(tmp_path / "data" / "x.jsonl", rows)
    raw = record(tmp_path / "raw", DatasetSource(uri=(tmp_path / "data").as_uri()))
    with pytest.raises(InputError, match=r"20 of 20 entries.*missing_picture.*no picture gone-0.jpg beside"):
        _convert(raw, tmp_path / "out", max_reject_share=0.95)


def test_filters_that_leave_nothing_are_named(tmp_path: Path) -> None:
    source = dataset(tmp_path / "data", "questions", 20, filters=Filters(min_side=4000))
    raw = record(tmp_path / "raw", source)
    finish(raw, "download/dataset")
    context = RunContext(run_id="r", run_name="r", workspace=tmp_path / "workspace")
    with pytest.raises(InputError, match=r"Only 0 shards of data have samples.*Left out were {'min_side': 20}"):
        run_wds_conversion(context, CONFIG, raw)


def test_file_that_changes_between_download_and_conversion_is_refused(tmp_path: Path) -> None:
    raw = record(tmp_path / "raw", dataset(tmp_path / "data", "questions", 20))
    table_datasets.write_parquet(tmp_path / "data" / "train.parquet", rows_of("questions", 21))
    with pytest.raises(InputError, match="another file than the download saw. Run the download again"):
        _convert(raw, tmp_path / "out")


def _slow_conversion(raw: Path, folder: Path) -> None:
    _convert(raw, folder)


def test_killed_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    sources = [dataset(tmp_path / name, layout, 150) for name, layout in (("a", "captions"), ("b", "cauldron"))]
    raw = record(tmp_path / "raw", *sources)
    _convert(raw, tmp_path / "whole")
    whole = _content(tmp_path / "whole")
    folder = tmp_path / "killed"
    process = multiprocessing.get_context("forkserver").Process(target=_slow_conversion, args=(raw, folder))
    process.start()
    wait_for(lambda: len(list(folder.glob("markers/*.json"))) >= 7 or not process.is_alive(), look_s=0.005)
    process.kill()
    process.join()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("markers/*.json")}
    assert 7 <= len(finished) < 20, "it had ended before it was killed"
    _convert(raw, folder)
    assert _content(folder) == whole
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in finished.items())


def test_parts_are_joined_to_what_one_task_writes(tmp_path: Path) -> None:
    sources = [dataset(tmp_path / name, layout, 25) for name, layout in (("a", "captions"), ("b", "cauldron"))]
    raw = record(tmp_path / "raw", *sources, held_out=(hashlib.sha256(picture(5)).hexdigest(),))
    finish(raw, "download/dataset")
    config = CONFIG.model_copy(update={"parallel_tasks": 3})
    contexts = [RunContext(run_id="r", run_name="r", workspace=tmp_path / name) for name in ("one", "parts")]
    one = run_wds_conversion(contexts[0], CONFIG, raw)
    parts = [run_wds_conversion_part(contexts[1], config, raw, part).folder for part in range(3)]
    merged = run_wds_conversion_merge(contexts[1], config, raw, parts)
    assert merged.manifest.facts == one.manifest.facts
    assert merged.manifest.key == one.manifest.key
    assert {name: entry.sha256 for name, entry in merged.manifest.files.items()} == {
        name: entry.sha256 for name, entry in one.manifest.files.items()
    }
