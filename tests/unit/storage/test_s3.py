"""Fetching from a real S3 server."""

import random
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from components.errors import InputError, StageError
from components.progress import Progress
from components.storage import transfer
from components.storage.config import TransferConfig
from components.storage.listing import list_source, listing_identity
from components.storage.uri import read_uri
from tests.support.s3_server import SECRET_KEY, S3Server, s3_server

QUICK = TransferConfig(connections=3, attempts=3, first_wait_s=0.01, timeout_s=5.0)
BIG = random.Random(1).randbytes(11_000_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        server.client.create_bucket(Bucket="data")
        put = server.client.put_object
        put(Bucket="data", Key="set/captions.json", Body=b"[]")
        put(Bucket="data", Key="set/deep/er/a b+c%20?.txt", Body=b"odd name")
        put(Bucket="data", Key="set/empty", Body=b"")
        put(Bucket="data", Key="settings.txt", Body=b"beside the folder")
        _upload_in_parts(server, "set/images.zip", BIG)
        yield server


def _upload_in_parts(server: S3Server, key: str, content: bytes) -> None:
    where = {"Bucket": "data", "Key": key}
    upload = server.client.create_multipart_upload(**where)["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(content), 5 << 20), start=1):
        body = content[start : start + (5 << 20)]
        tag = server.client.upload_part(**where, UploadId=upload, PartNumber=number, Body=body)["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
    server.client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})


@pytest.fixture(autouse=True)
def environment(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PIECE_BYTES", 2_000_000)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)


def fetch(uri: str, folder: Path) -> dict[str, bytes]:
    listing = list_source(read_uri(uri, "data.source"), QUICK)
    transfer.fetch_files(listing.files, folder, QUICK, Progress("test"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_object_that_was_uploaded_in_parts(tmp_path: Path) -> None:
    assert fetch("s3://data/set/images.zip", tmp_path) == {"images.zip": BIG}


@pytest.mark.parametrize("uri", ["s3://data/set", "s3://data/set/"])
def test_everything_below_a_prefix(uri: str, tmp_path: Path) -> None:
    expected = {"captions.json": b"[]", "deep/er/a b+c%20?.txt": b"odd name", "empty": b"", "images.zip": BIG}
    assert fetch(uri, tmp_path) == expected


def test_odd_name(tmp_path: Path) -> None:
    assert fetch("s3://data/set/deep/er/a b+c%20?.txt", tmp_path) == {"a b+c%20?.txt": b"odd name"}


def test_whole_bucket(tmp_path: Path) -> None:
    names = {file.name for file in list_source(read_uri("s3://data", "s"), QUICK).files}
    assert names == {"set/captions.json", "set/deep/er/a b+c%20?.txt", "set/empty", "set/images.zip", "settings.txt"}


def test_begun_objects_go_on(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = list_source(read_uri("s3://data/set/images.zip", "s"), QUICK).files
    read, asked = file.read, []

    def dying(start: int, end: int | None) -> Iterator[bytes]:
        asked.append((start, end))
        if len(asked) == 4:
            raise InputError("the process ends here")
        return read(start, end)

    monkeypatch.setattr(file, "read", dying)
    with pytest.raises(InputError, match="ends here"):
        transfer.fetch_files([file], tmp_path, QUICK, Progress("test"))
    (again,) = list_source(read_uri("s3://data/set/images.zip", "s"), QUICK).files
    assert 0 < transfer.fetch_files([again], tmp_path, QUICK, Progress("test")) < len(BIG)
    assert (tmp_path / "images.zip").read_bytes() == BIG


def test_object_that_is_written_again_midway(server: S3Server, tmp_path: Path) -> None:
    server.client.put_object(Bucket="data", Key="changing/a", Body=BIG[:5_000_000])
    listing = list_source(read_uri("s3://data/changing/a", "s"), QUICK)
    identity = listing_identity(listing.files)
    server.client.put_object(Bucket="data", Key="changing/a", Body=BIG[5_000_000:])
    transfer.fetch_files(listing.files, tmp_path, QUICK, Progress("test"))
    assert (tmp_path / "a").read_bytes() == BIG[5_000_000:]
    assert listing_identity(list_source(read_uri("s3://data/changing/a", "s"), QUICK).files) != identity


@pytest.mark.parametrize("uri", ["s3://data/nothing", "s3://data/sett", "s3://data/nothing/"])
def test_missing_object(uri: str) -> None:
    with pytest.raises(InputError, match=f"{uri} does not exist"):
        list_source(read_uri(uri, "s"), QUICK)


def test_missing_bucket() -> None:
    with pytest.raises(InputError, match="s3://nothere/a"):
        list_source(read_uri("s3://nothere/a", "s"), QUICK)


def test_wrong_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wr0ng-secret")
    with pytest.raises(
        InputError, match=r"No access to s3://data/set/images\.zip: .*403.*Check the credentials"
    ) as caught:
        list_source(read_uri("s3://data/set/images.zip", "s"), QUICK)
    assert "wr0ng-secret" not in str(caught.value)


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    boto3.DEFAULT_SESSION = None
    with pytest.raises(InputError, match=r"No access to .*There are no credentials in the environment"):
        list_source(read_uri("s3://data/set/images.zip", "s"), QUICK)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(StageError, match=r"gave up after 3 attempts: Could not connect to the endpoint"):
        list_source(read_uri("s3://data/set", "s"), QUICK)


def test_presigned_url(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"Bucket": "data", "Key": "set/images.zip"}
    monkeypatch.setenv("DATA_URL", server.client.generate_presigned_url("get_object", Params=where, ExpiresIn=60))
    assert fetch("${DATA_URL}", tmp_path) == {"images.zip": BIG}
    monkeypatch.setenv("DATA_URL", server.client.generate_presigned_url("get_object", Params=where, ExpiresIn=60) + "0")
    with pytest.raises(InputError, match=r"No access to http://127\.0\.0\.1:\d+/data/set/images\.zip: .*403") as caught:
        fetch("${DATA_URL}", tmp_path / "again")
    assert "Signature" not in str(caught.value)
    assert SECRET_KEY not in str(caught.value)
