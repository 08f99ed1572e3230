"""Fetching from a server that speaks the hub's routes."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.errors import ConfigurationError, InputError, StageError
from components.progress import Progress
from components.storage import transfer
from components.storage.config import TransferConfig
from components.storage.listing import list_source, listing_identity
from components.storage.uri import read_uri
from tests.support.hub_server import COMMIT, publish
from tests.support.web_server import WebServer, web_server

QUICK = TransferConfig(connections=3, attempts=3, first_wait_s=0.01, timeout_s=2.0)
WEIGHTS = random.Random(2).randbytes(300_000)
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "data/a/b.json": b"[1]", "data/c.json": b"[2]"}


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture(autouse=True)
def hub(web: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    web.files.clear()
    web.requests.clear()
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(transfer, "PIECE_BYTES", 100_000)


def names(uri: str) -> list[str]:
    return [file.name for file in list_source(read_uri(uri, "s"), QUICK).files]


def fetch(uri: str, folder: Path) -> dict[str, bytes]:
    transfer.fetch_files(list_source(read_uri(uri, "s"), QUICK).files, folder, QUICK, Progress("test"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_model(web: WebServer, tmp_path: Path) -> None:
    publish(web, "org/model", FILES)
    assert fetch("hf://org/model", tmp_path) == FILES


def test_dataset(web: WebServer, tmp_path: Path) -> None:
    publish(web, "org/set", FILES, kind="dataset")
    assert fetch("hf://datasets/org/set", tmp_path) == FILES
    with pytest.raises(InputError, match=r"hf://org/set does not exist.*hf://datasets/"):
        names("hf://org/set")


def test_folder_file_and_revision(web: WebServer, tmp_path: Path) -> None:
    publish(web, "org/model", FILES, revisions=("main", "v1.0", "refs%2Fpr%2F3"))
    assert names("hf://org/model/data") == ["a/b.json", "c.json"]
    assert names("hf://org/model@v1.0/data/c.json") == ["c.json"]
    assert names("hf://org/model@refs/pr/3/data/c.json") == ["c.json"]
    assert names(f"hf://org/model@{COMMIT}/config.json") == ["config.json"]
    with pytest.raises(InputError, match="no file or folder 'dat'"):
        names("hf://org/model/dat")
    with pytest.raises(InputError, match="no such model or revision"):
        names("hf://org/model@v2.0")


def test_large_files_are_checked_and_come_in_ranges(web: WebServer, tmp_path: Path) -> None:
    publish(web, "org/model", FILES)
    (file,) = list_source(read_uri("hf://org/model/model.safetensors", "s"), QUICK).files
    transfer.fetch_files([file], tmp_path, QUICK, Progress("test"))
    stored = [request for request in web.requests if request.path.startswith("/store/")]
    assert sorted(request.sent for request in stored) == [100_000] * 3
    damaged = bytearray(WEIGHTS)
    damaged[7] ^= 1
    for path, served in web.files.items():
        if path.startswith("/store/"):
            served.content = bytes(damaged)
    with pytest.raises(InputError, match=r"hf://org/model@0123456789ab/model\.safetensors has SHA-256"):
        transfer.fetch_files([file], tmp_path / "again", QUICK, Progress("test"))


def test_token_reaches_the_hub_and_nobody_else(web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(web, "org/model", FILES, token="hf_t0ken")
    with pytest.raises(InputError, match=r"No access to hf://org/model: .*401.*HF_TOKEN"):
        names("hf://org/model")
    monkeypatch.setenv("HF_TOKEN", "hf_t0ken")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with web_server() as store:  # the store under another name, as it is
        for served in web.files.values():
            if served.redirect:
                store.serve("/elsewhere", WEIGHTS)
                served.redirect = store.url.replace("127.0.0.1", "localhost") + "/elsewhere"
        assert fetch("hf://org/model", tmp_path / "there") == FILES
        assert store.requests
        assert not any(request.authorization for request in store.requests)
    monkeypatch.setenv("HF_TOKEN", "hf_wr0ng")
    with pytest.raises(InputError) as caught:
        names("hf://org/model")
    assert "hf_wr0ng" not in str(caught.value)


def test_busy_hub(web: WebServer) -> None:
    publish(web, "org/model", FILES)
    web.files["/api/models/org/model"].statuses = [503]
    web.files[f"/api/models/org/model/tree/{COMMIT}"].statuses = [429]
    assert len(names("hf://org/model")) == len(FILES)


def test_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StageError, match=r"hf://org/model: gave up after 3 attempts"):
        names("hf://org/model")


def test_identity_is_that_of_the_content(web: WebServer) -> None:
    def identity(files: dict[str, bytes]) -> str:
        publish(web, "org/model", files)
        return listing_identity(list_source(read_uri("hf://org/model", "s"), QUICK).files)

    assert identity(FILES) == identity(FILES)
    assert identity(FILES) != identity(FILES | {"config.json": b"[]"})


@pytest.mark.parametrize("uri", ["hf://org", "hf://spaces/org/name", "hf://datasets/org"])
def test_what_is_no_repository(uri: str, web: WebServer) -> None:
    with pytest.raises((ConfigurationError, InputError), match=uri):
        names(uri)
