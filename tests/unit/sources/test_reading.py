"""Every layout in every format gives the same samples, from any row on; what is damaged or unknown is named."""

import csv
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value
from hypothesis import given
from hypothesis import strategies as st

from components.errors import ConfigurationError, InputError
from components.progress import Progress
from components.sources.config import DatasetSource, Filters
from components.sources.pictures import picture_bytes
from components.sources.reading import read_rows, row_samples
from components.sources.recording import Looked, look_at
from components.sources.tables.delimited import Delimited
from components.storage.config import TransferConfig
from tests.support import table_datasets
from tests.support.data_samples import picture
from tests.support.table_datasets import LAYOUTS, Expected, rows_of

COUNT = 23
WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "data.parquet": table_datasets.write_parquet,
    "data.arrow": table_datasets.write_arrow,
    "data.jsonl": table_datasets.write_json_lines,
    "data.json": table_datasets.write_json_list,
    "data.csv": table_datasets.write_csv,
}


def look(path: Path, **settings: Any) -> Looked:
    return look_at(
        DatasetSource(uri=path.as_uri(), **settings), "data.pretrain.datasets[0]", TransferConfig(), Progress("test")
    )


def read(looked: Looked, first: int = 0, last: int | None = None) -> list[Expected]:
    dataset = looked.dataset
    found = []
    for file, row in read_rows(dataset, looked.folder, first, dataset.taken if last is None else last):
        samples: Expected = []
        for sample in row_samples(dataset, row):
            turns = [turn["value"].replace("<image>\n", "") for turn in sample.conversation if turn["from"] != "system"]
            pictures = [picture_bytes(ref, looked.folder, file) for ref in sample.pictures]
            samples.append((pictures, list(zip(turns[::2], turns[1::2], strict=True))))
        found.append(samples)
    return found


@pytest.mark.parametrize(("layout", "name"), itertools.product(LAYOUTS, WRITERS))
def test_every_layout_in_every_format(layout: str, name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, rows_of(layout, COUNT))
    looked = look(tmp_path / name)
    assert looked.dataset.layout == layout
    assert looked.dataset.rows == COUNT
    assert read(looked) == [LAYOUTS[layout].expected(number) for number in range(COUNT)]


@pytest.mark.parametrize("name", WRITERS)
def test_reading_begins_at_any_row(name: str, tmp_path: Path) -> None:
    table_datasets.write_parquet(tmp_path / "a.parquet", rows_of("questions", 1))
    WRITERS[name](tmp_path / "d" / name, rows_of("questions", COUNT))
    looked = look(tmp_path / "d" / name)
    expected = [LAYOUTS["questions"].expected(number) for number in range(COUNT)]
    for first, last in itertools.combinations(range(0, COUNT + 1, 4), 2):
        assert read(looked, first, last) == expected[first:last]


@pytest.mark.parametrize("as_file", [False, True])
def test_marks_are_used_where_there_are_many_rows(tmp_path: Path, as_file: bool) -> None:
    rows = [{"image": "a.jpg", "question": f"line\nbreak, {n}", "answer": f'"{n}"'} for n in range(2600)]
    table_datasets.write_json_lines(tmp_path / "j" / "x.jsonl", rows)
    table_datasets.write_json_list(tmp_path / "l" / "x.json", rows)
    table_datasets.write_csv(tmp_path / "c" / "x.tsv", rows, delimiter="\t")
    table_datasets.write_arrow(tmp_path / "a" / "x.arrow", rows, batch_rows=100, as_file=as_file)
    table_datasets.write_parquet(tmp_path / "p" / "x.parquet", rows, group_rows=100)
    for folder in "jlcap":
        looked = look(tmp_path / folder)
        assert len(looked.dataset.files[0].marks) > 5
        for first in (0, 499, 500, 1234, 2599):
            ((_, row),) = read_rows(looked.dataset, looked.folder, first, first + 1)
            assert isinstance(row, dict)
            assert (row["question"], row["answer"]) == (f"line\nbreak, {first}", f'"{first}"')


def test_rows_of_several_files_follow_each_other(tmp_path: Path) -> None:
    rows = rows_of("captions", 20)
    for number in range(4):
        table_datasets.write_parquet(tmp_path / f"train-{number}.parquet", rows[number * 5 : number * 5 + 5], 2)
    assert read(look(tmp_path)) == [LAYOUTS["captions"].expected(number) for number in range(20)]


def test_what_datasets_wrote_is_read(tmp_path: Path) -> None:
    features = Features({"image": Image(), "caption": Value("string")})
    rows = [{"image": {"bytes": picture(n), "path": None}, "caption": f"picture {n}"} for n in range(9)]
    dataset = Dataset.from_list(rows, features=features)
    dataset.to_parquet(tmp_path / "p" / "train.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    for folder in ("p", "saved"):
        assert [pictures for ((pictures, _),) in read(look(tmp_path / folder))] == [[picture(n)] for n in range(9)]


def test_folder_of_pictures_with_metadata(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(picture(number))
    lines = [json.dumps({"file_name": f"{number}.jpg", "text": f"picture {number}"}) for number in range(5)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert [sample[0][0] for sample in read(look(tmp_path))] == [[picture(number)] for number in range(5)]


def test_shards_of_img2dataset(tmp_path: Path) -> None:
    samples = [table_datasets.img2dataset(number) for number in range(250)]
    table_datasets.write_tar(tmp_path / "00000.tar", samples[:210])
    table_datasets.write_tar(tmp_path / "00001.tar", samples[210:], first=210)
    looked = look(tmp_path)
    assert (looked.dataset.layout, looked.dataset.rows) == ("shards", 250)
    assert len(looked.dataset.files[0].marks) == 3
    found = read(looked)
    assert [sample[0][0] for sample in found] == [[picture(number)] for number in range(250)]
    assert found[7][0][1][0][1] == "a red circle number 7"
    assert read(looked, 205, 215) == found[205:215]


def test_tar_without_texts_takes_the_caption_of_the_json(tmp_path: Path) -> None:
    samples = [{key: value for key, value in table_datasets.img2dataset(n).items() if key != "txt"} for n in range(3)]
    table_datasets.write_tar(tmp_path / "x.tar", samples)
    assert read(look(tmp_path / "x.tar"))[2][0][1][0][1] == "a red circle number 2"


def test_splits_and_configurations_as_datasets_finds_them(tmp_path: Path) -> None:
    for name in ("ai2d/train-00000-of-00001", "ai2d/test-00000-of-00001", "chartqa/train-00000-of-00001"):
        table_datasets.write_parquet(tmp_path / f"{name}.parquet", rows_of("cauldron", 3 + len(name)))
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {name}/{split}-*\n" for split in splits)
        for name, splits in (("ai2d", ("train", "test")), ("chartqa", ("train",)))
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n# A card\n")
    assert look(tmp_path, config="ai2d", split="test").dataset.rows == 3 + len("ai2d/test-00000-of-00001")
    assert [file.name for file in look(tmp_path, config="chartqa").dataset.files] == [
        "chartqa/train-00000-of-00001.parquet"
    ]
    with pytest.raises(InputError, match="several configurations: say in `config` which of ai2d, chartqa"):
        look(tmp_path)
    with pytest.raises(InputError, match="no configuration 'x'; there are ai2d, chartqa"):
        look(tmp_path, config="x")
    with pytest.raises(InputError, match="no split 'validation' of the configuration ai2d; there are test, train"):
        look(tmp_path, config="ai2d", split="validation")


def test_mapping_names_columns_that_no_layout_knows(tmp_path: Path) -> None:
    rows = [{"photo": table_datasets.stored(n), "meta": {"alt": f"text {n}"}, "more": n} for n in range(4)]
    table_datasets.write_parquet(tmp_path / "x.parquet", rows)
    with pytest.raises(InputError, match=r"columns photo, meta, more, which no layout knows.*captions.*mapping"):
        look(tmp_path)
    with pytest.raises(InputError, match=r"mapping.caption is 'alt'; the columns are photo, meta, more"):
        look(tmp_path, mapping={"image": "photo", "caption": "alt"})
    looked = look(tmp_path, mapping={"image": "photo", "caption": "meta.alt"})
    assert looked.dataset.columns == ("photo", "meta")
    assert [sample[0][1][0][1] for sample in read(looked)] == [f"text {n}" for n in range(4)]


def test_columns_that_are_not_needed_are_not_read(tmp_path: Path) -> None:
    rows = [{**row, "thumbnail": b"x" * 100, "score": 3} for row in rows_of("captions", 4)]
    table_datasets.write_parquet(tmp_path / "x.parquet", rows)
    assert look(tmp_path).dataset.columns == ("image", "caption")
    assert look(tmp_path, filters=Filters(scores={"score": 1})).dataset.columns == ("image", "caption", "score")
    with pytest.raises(InputError, match="has no column scores; there are image, caption, thumbnail, score"):
        look(tmp_path, columns=("image", "caption", "scores"))
    with pytest.raises(InputError, match="filters.scores names 'rating'"):
        look(tmp_path, filters=Filters(scores={"rating": 1}))


@pytest.mark.parametrize("sampling", ["first", "spread"])
def test_cap_takes_the_first_rows_or_spreads_them(tmp_path: Path, sampling: str) -> None:
    table_datasets.write_parquet(tmp_path / "x.parquet", rows_of("questions", 20), group_rows=3)
    looked = look(tmp_path, cap=5, sampling=sampling)
    numbers = range(5) if sampling == "first" else range(0, 20, 4)
    assert read(looked) == [LAYOUTS["questions"].expected(number) for number in numbers]


def test_bad_lines_are_rows_that_can_not_be_read(tmp_path: Path) -> None:
    table_datasets.write_json_lines(tmp_path / "x.jsonl", rows_of("questions", 3))
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    (tmp_path / "x.jsonl").write_text("\n".join([lines[0], "{broken", "", "[1]", lines[2]]) + "\n")
    looked = look(tmp_path / "x.jsonl")
    assert looked.dataset.rows == 4
    rows = [row for _, row in read_rows(looked.dataset, looked.folder, 0, 4)]
    for row, message in ((rows[1], "not JSON"), (rows[2], "is a list, not an object")):
        with pytest.raises(InputError, match=message):
            row_samples(looked.dataset, row)
    assert len(row_samples(looked.dataset, rows[3])) == 1


def test_json_that_is_cut_off_is_named(tmp_path: Path) -> None:
    table_datasets.write_json_list(tmp_path / "x.json", rows_of("questions", 3))
    (tmp_path / "x.json").write_bytes((tmp_path / "x.json").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"x.json can't be read: the file is not JSON: at byte"):
        look(tmp_path / "x.json")


def test_json_about_a_dataset_is_no_table(tmp_path: Path) -> None:
    table_datasets.write_tar(tmp_path / "00000.tar", [table_datasets.img2dataset(n) for n in range(3)])
    (tmp_path / "00000_stats.json").write_text('{"successes": 3}')
    assert look(tmp_path).dataset.rows == 3


_TEXT = st.text("ab,\"'\n\r\t [{é", max_size=8)


@given(st.lists(st.tuples(_TEXT.filter(bool), _TEXT), min_size=1, max_size=9), st.sampled_from([",", "\t"]))
def test_cells_come_back_as_the_csv_module_wrote_them(rows: list[tuple[str, str]], delimiter: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([("a", "b"), *rows])
    stream = io.BytesIO(text.getvalue().encode())
    table = Delimited(delimiter)
    assert table.index(stream).rows == len(rows)
    assert [(row["a"], row["b"]) for row in table.rows(stream, 0, None)] == rows  # type: ignore[call-overload, index]


def test_damaged_and_changed_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table_datasets.write_parquet(path, rows_of("questions", 40))
    looked = look(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"x.parquet can't be read"):
        look(path)
    with pytest.raises(InputError, match="another file than the download saw"):
        read(look_again(looked, path))
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match="another file than the download saw"):
        read(look_again(looked, path))


def look_again(looked: Looked, path: Path) -> Looked:
    from dataclasses import replace

    from components.sources.folder import SourceFolder

    return replace(looked, folder=SourceFolder(path.as_uri(), "x", TransferConfig()))


def test_sources_that_hold_no_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"no files with rows: expected .parquet"):
        look(tmp_path)
    with pytest.raises(InputError, match=r"of no format that can be streamed"):
        look(tmp_path / "a.txt")
    table_datasets.write_json_lines(tmp_path / "e.jsonl", [])
    with pytest.raises(InputError, match="has no rows in the split train"):
        look(tmp_path / "e.jsonl")
    table_datasets.write_json_lines(tmp_path / "b.jsonl", [{"image": "a.jpg", "question": 5, "answer": "x"}] * 3)
    with pytest.raises(
        InputError, match=r"none of the first 3 rows is as the layout questions.*question must be a text"
    ):
        look(tmp_path / "b.jsonl")


def test_revision_goes_into_the_uri() -> None:
    assert DatasetSource(uri="hf://datasets/O/N", revision="v1").full_uri == "hf://datasets/O/N@v1"
    assert DatasetSource(uri="hf://datasets/O/N/sub", revision="v1").full_uri == "hf://datasets/O/N@v1/sub"
    with pytest.raises(ValueError, match="revision is of the hub"):
        DatasetSource(uri="file:///x", revision="v1")


def test_pictures_in_a_zip_beside_the_lines(tmp_path: Path) -> None:
    table_datasets.write_json_lines(tmp_path / "x.jsonl", rows_of("llava", 3))
    (tmp_path / "images").mkdir()
    for number in range(3):
        shutil.move(tmp_path / f"{number}.jpeg", tmp_path / "images")
    expected = [LAYOUTS["llava"].expected(number) for number in range(3)]
    assert read(look(tmp_path / "x.jsonl")) == expected
    shutil.make_archive(str(tmp_path / "images"), "zip", tmp_path, "images")
    shutil.rmtree(tmp_path / "images")
    assert read(look(tmp_path / "x.jsonl")) == expected
    assert read(look(tmp_path)) == expected


def test_a_name_that_leads_out_of_the_folder_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(picture(1))
    rows = [{"image": name, "question": "?", "answer": "x"} for name in ("../secret.jpg", "/etc/passwd", "link.jpg")]
    table_datasets.write_json_lines(tmp_path / "data" / "x.jsonl", rows)
    (tmp_path / "data" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    looked = look(tmp_path / "data")
    for name in ("../secret.jpg", "/etc/passwd", "link.jpg"):
        with pytest.raises(Exception, match="there is no picture"):
            picture_bytes(name, looked.folder, "x.jsonl")


def test_two_datasets_of_one_name_are_refused(tmp_path: Path) -> None:
    from components.sources.recording import check_names

    table_datasets.write_json_lines(tmp_path / "x.jsonl", [{"image": "a", "question": "?", "answer": "x"}])
    dataset = look(tmp_path / "x.jsonl").dataset
    with pytest.raises(ConfigurationError, match="two datasets are called 'x'"):
        check_names([dataset, dataset], "data.pretrain.datasets")
