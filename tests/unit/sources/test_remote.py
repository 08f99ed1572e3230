"""Datasets of the hub, of S3 and of the web are streamed; pictures that rows name are fetched from where they are."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.errors import InputError
from components.progress import Progress
from components.sources.config import DatasetSource
from components.sources.folder import SourceFolder
from components.sources.pictures import MissingPicture, picture_bytes
from components.sources.reading import read_rows
from components.sources.recording import Looked, look_at
from components.storage.config import TransferConfig
from tests.support import table_datasets
from tests.support.data_samples import picture
from tests.support.hub_server import COMMIT, publish
from tests.support.s3_server import s3_server
from tests.support.table_datasets import LAYOUTS, rows_of
from tests.support.web_server import WebServer, web_server
from tests.unit.sources.test_reading import read

CONFIG = TransferConfig(attempts=3, first_wait_s=0.01, timeout_s=5)
EXPECTED = [LAYOUTS["cauldron"].expected(number) for number in range(20)]


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    rows = rows_of("cauldron", 20)
    for number in range(2):
        table_datasets.write_parquet(tmp_path / f"train-0000{number}-of-00002.parquet", rows[number * 10 :][:10], 4)
    card = "---\nconfigs:\n- config_name: ai2d\n  data_files:\n  - split: train\n    path: ai2d/train-*\n---\n"
    tables = {f"ai2d/{path.name}": path.read_bytes() for path in sorted(tmp_path.glob("*.parquet"))}
    return {"README.md": card.encode(), **tables}


def look(uri: str, **settings: str) -> Looked:
    return look_at(DatasetSource(uri=uri, **settings), "data.source", CONFIG, Progress("test"))  # type: ignore[arg-type]


def test_hub(web: WebServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    publish(web, "org/cauldron", files, kind="dataset", revisions=("main", "v1"), token="hf_secret")
    looked = look("hf://datasets/org/cauldron", config="ai2d", revision="v1")
    assert looked.dataset.uri == f"hf://datasets/org/cauldron@{COMMIT}"
    assert looked.dataset.name == "cauldron-ai2d"
    assert read(looked) == EXPECTED
    stored = looked.dataset.model_dump_json()
    assert "hf_secret" not in stored
    again = SourceFolder(looked.dataset.uri, "x", CONFIG)  # another process has the record alone
    assert len(list(read_rows(looked.dataset, again, 0, 20))) == 20


def test_of_the_hub_a_part_is_fetched_where_a_part_is_read(
    web: WebServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setattr("components.storage.seekable.READ_AHEAD_BYTES", 1000)
    publish(web, "org/cauldron", files, kind="dataset")
    looked = look("hf://datasets/org/cauldron", config="ai2d")
    before = web.sent
    assert read(looked, 17, 20) == EXPECTED[17:20]
    assert web.sent - before < 0.4 * len(files["ai2d/train-00001-of-00002.parquet"]) + 20_000


def test_a_gated_dataset_says_what_to_do(
    web: WebServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    publish(web, "org/cauldron", files, kind="dataset", token="hf_secret")
    with pytest.raises(InputError, match="set HF_TOKEN"):
        look("hf://datasets/org/cauldron", config="ai2d")


@pytest.mark.slow
def test_s3(tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        server.client.create_bucket(Bucket="data")
        lines = [{"image": f"images/{n}.jpg", "caption": f"picture {n}"} for n in range(3)]
        files["lines/captions.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
        files |= {f"lines/images/{n}.jpg": picture(n) for n in range(3)}
        for name, content in files.items():
            server.client.put_object(Bucket="data", Key=name, Body=content)
        assert read(look("s3://data/ai2d")) == EXPECTED
        assert read(look("s3://data/ai2d/train-00000-of-00002.parquet")) == EXPECTED[:10]
        for uri in ("s3://data/lines", "s3://data/lines/captions.jsonl"):
            assert [sample[0][0] for sample in read(look(uri))] == [[picture(n)] for n in range(3)]


def test_a_file_of_a_web_server(web: WebServer, files: dict[str, bytes]) -> None:
    url = web.serve("/data.parquet", files["ai2d/train-00000-of-00002.parquet"], cuts={5000, 9000})
    assert read(look(url)) == EXPECTED[:10]


def test_pictures_of_urls_and_base64(web: WebServer, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}\n")
    folder = SourceFolder(tmp_path.as_uri(), "x", CONFIG)
    for url in (web.serve("/a.jpg", picture(1)), web.serve("/b.jpg", picture(1), ranges=False, cuts={300})):
        assert picture_bytes(url, folder, "x.jsonl") == picture(1)
    encoded = base64.b64encode(picture(2)).decode()
    assert picture_bytes(f"data:image/jpeg;base64,{encoded}", folder, "x.jsonl") == picture(2)
    assert picture_bytes(encoded, folder, "x.jsonl") == picture(2)
    for ref, message in (
        (f"{web.url}/none.jpg?token=secret", "does not exist: the server answered 404"),
        ("data:image/png;base64,%%%", "its data URI can't be read"),
        ("gone.jpg", "there is no picture gone.jpg"),
    ):
        with pytest.raises(MissingPicture, match=message) as caught:
            picture_bytes(ref, folder, "x.jsonl")
        assert "secret" not in str(caught.value)
