"""Fetching from a real web server that misbehaves."""

import copy
import datetime
import hashlib
import ipaddress
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.errors import InputError, StageError, VlmError
from components.progress import Progress
from components.storage import transfer
from components.storage.config import TransferConfig
from components.storage.listing import list_source, listing_identity
from components.storage.partial import joined, missing_ranges
from components.storage.transfer import fetch_files, link_or_copy
from components.storage.uri import read_uri
from tests.support.paths import ROOT
from tests.support.waiting import wait_for
from tests.support.web_server import WebServer, web_server

QUICK = TransferConfig(connections=3, attempts=4, first_wait_s=0.01, timeout_s=1.0)
CONTENT = random.Random(0).randbytes(700_001)
PIECE = 100_000


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture(autouse=True)
def clean(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    web.files.clear()
    web.requests.clear()
    monkeypatch.setattr(transfer, "PIECE_BYTES", PIECE)


def fetch(url: str, folder: Path, config: TransferConfig = QUICK) -> bytes:
    listing = list_source(read_uri(url, "data.source"), config)
    fetch_files(listing.files, folder, config, Progress("test"))
    assert sorted(path.name for path in folder.iterdir()) == sorted(file.name for file in listing.files), (
        "nothing is left"
    )
    return (folder / listing.files[0].name).read_bytes()


def test_ranges_are_fetched_side_by_side(web: WebServer, tmp_path: Path) -> None:
    assert fetch(web.serve("/a.zip", CONTENT), tmp_path) == CONTENT
    asked = [request.asked for request in web.requests]
    assert sorted(asked[1:]) == sorted(
        f"bytes={at}-{min(at + PIECE, len(CONTENT)) - 1}" for at in range(0, 700_001, PIECE)
    )
    assert web.sent == len(CONTENT) + 1


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1])
@pytest.mark.parametrize("ranges", [True, False])
def test_sizes_at_the_edges(size: int, ranges: bool, web: WebServer, tmp_path: Path) -> None:
    assert fetch(web.serve("/a", CONTENT[:size], ranges=ranges), tmp_path) == CONTENT[:size]


def test_server_without_ranges(web: WebServer, tmp_path: Path) -> None:
    assert fetch(web.serve("/a", CONTENT, ranges=False, cuts={300_000}), tmp_path) == CONTENT


def test_server_that_gives_no_length_but_marks_the_end(web: WebServer, tmp_path: Path) -> None:
    assert fetch(web.serve("/a", CONTENT, ranges=False, chunked=True, cuts={400_000}), tmp_path) == CONTENT


def test_server_that_gives_neither_length_nor_end(web: WebServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not say how long"):
        fetch(web.serve("/a", CONTENT, ranges=False, unmarked=True), tmp_path)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, len(CONTENT) - 1), max_size=6), connections=st.integers(1, 4))
def test_cut_at_any_byte(
    cuts: set[int], connections: int, web: WebServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is cut, the bytes are right and none is asked for twice."""
    web.requests.clear()
    url = web.serve("/a", CONTENT, cuts=set(cuts))
    config = QUICK.model_copy(update={"connections": connections})
    assert fetch(url, tmp_path_factory.mktemp("cut"), config) == CONTENT
    assert web.sent == len(CONTENT) + 1


def test_cut_at_the_same_place_forever(web: WebServer, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"a: gave up after 4 attempts: .*run again to go on"):
        fetch(web.serve("/a", CONTENT, ranges=False, always_cut_after=5000), tmp_path)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_faults_are_tried_again(status: int, web: WebServer, tmp_path: Path) -> None:
    assert fetch(web.serve("/a", CONTENT, statuses=[status] * 3), tmp_path) == CONTENT
    assert fetch(web.serve("/b", CONTENT, statuses=[status] * 3, after_first_byte=False), tmp_path / "b") == CONTENT


def test_too_many_faults(web: WebServer, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="gave up after 4 attempts: the server answered 503 Service Unavailable"):
        fetch(web.serve("/a", CONTENT, statuses=[503] * 100), tmp_path)


def test_retry_after_is_waited_for(web: WebServer, tmp_path: Path) -> None:
    url = web.serve("/a", b"content", statuses=[429], retry_after="1")
    start = time.monotonic()
    assert fetch(url, tmp_path) == b"content"
    assert time.monotonic() - start >= 1.0


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "No access to .*/a: .*401"),
        (403, "No access to .*/a: .*403"),
        (404, "does not exist"),
        (410, "does not exist"),
        (400, "400 Bad"),
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_lasting_faults_are_told_at_once(
    status: int, message: str, early: bool, web: WebServer, tmp_path: Path
) -> None:
    # The answer is given once: a second attempt would succeed.
    url = web.serve("/a", CONTENT, statuses=[status], after_first_byte=not early)
    with pytest.raises(InputError, match=message):
        fetch(url, tmp_path)
    if early:
        assert len(web.requests) == 1


def test_stalled_connection_is_given_up(web: WebServer, tmp_path: Path) -> None:
    url = web.serve("/a", CONTENT, stalls=2, stall_s=3.0)
    assert fetch(url, tmp_path, QUICK.model_copy(update={"timeout_s": 0.3})) == CONTENT


def test_throttled_server_is_waited_for(web: WebServer, tmp_path: Path) -> None:
    url = web.serve("/a", CONTENT[:60_000], rate=60_000)
    assert fetch(url, tmp_path, QUICK.model_copy(update={"timeout_s": 0.5})) == CONTENT[:60_000]


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"gave up after 4 attempts: .*refused"):
        fetch("http://127.0.0.1:9/a", tmp_path)


def test_server_that_claims_more_than_it_has(web: WebServer, tmp_path: Path) -> None:
    with pytest.raises(VlmError, match="the source changed|gave up"):
        fetch(web.serve("/a", CONTENT, claims=len(CONTENT) + 50_000), tmp_path)
    assert not (tmp_path / "a").exists()


def test_server_that_sends_another_range(web: WebServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="asked for bytes .* the server sent"):
        fetch(web.serve("/a", CONTENT, shifted=7), tmp_path)


def test_server_that_stops_giving_ranges(web: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = web.serve("/a", CONTENT)
    listing = list_source(read_uri(url, "s"), QUICK)
    web.files["/a"].ranges = False
    fetch_files(listing.files, tmp_path, QUICK, Progress("test"))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert "ignores ranges; fetched from its beginning" in capsys.readouterr().out


@pytest.mark.parametrize("validator", ["etag", "modified"])
def test_source_that_changes_midway(validator: str, web: WebServer, tmp_path: Path) -> None:
    old = {"etag": '"1"'} if validator == "etag" else {"etag": "", "modified": "Mon, 02 Nov 2026 00:00:00 GMT"}
    new = {"etag": '"2"'} if validator == "etag" else {"etag": "", "modified": "Tue, 03 Nov 2026 00:00:00 GMT"}
    url = web.serve("/a", CONTENT, **old, always_cut_after=0, cuts={350_000})
    listing = list_source(read_uri(url, "s"), QUICK)
    other = CONTENT[::-1][:500_000]
    web.serve("/a", other, **new)
    fetch_files(listing.files, tmp_path, QUICK, Progress("test"))
    assert (tmp_path / "a").read_bytes() == other


def test_source_that_never_stays_the_same(web: WebServer, tmp_path: Path) -> None:
    url = web.serve("/a", CONTENT)
    (file,) = list_source(read_uri(url, "s"), QUICK).files
    web.files["/a"].etag = '"2"'
    file.refresh = lambda: None  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"the source changed .*4 times"):
        fetch_files([file], tmp_path, QUICK, Progress("test"))


CHILD = """
import sys
from pathlib import Path
from components.progress import Progress
from components.storage import transfer
from components.storage.config import TransferConfig
from components.storage.listing import list_source
from components.storage.uri import read_uri
transfer.PIECE_BYTES = int(sys.argv[3])
transfer._COMMIT_S = 0.1
config = TransferConfig(connections=3)
transfer.fetch_files(list_source(read_uri(sys.argv[1], "s"), config).files, Path(sys.argv[2]), config, Progress("child"))
"""


def interrupted(url: str, folder: Path, web: WebServer, after: int, how: signal.Signals) -> None:
    """Start a process that fetches, and end it when some bytes are sent."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, url, str(folder), str(PIECE)], cwd=ROOT)

    def has_fetched() -> bool:
        assert child.poll() is None, "it ended too early"
        return web.sent >= after and any(folder.glob("*.part.json"))

    try:
        wait_for(has_fetched)
    finally:
        child.send_signal(how)
        child.wait()


def test_killed_process_goes_on(web: WebServer, tmp_path: Path) -> None:
    url = web.serve("/a", CONTENT, rate=100_000)
    interrupted(url, tmp_path, web, 200_000, signal.SIGKILL)
    assert not (tmp_path / "a").exists()
    held = sum(end - start for start, end in json.loads((tmp_path / "a.part.json").read_text())["ranges"])
    assert held > 50_000
    web.files["/a"].rate = 0
    web.requests.clear()
    assert fetch(url, tmp_path) == CONTENT
    assert web.sent == len(CONTENT) - held + 1


def test_changed_source_starts_over_after_a_kill(web: WebServer, tmp_path: Path) -> None:
    url = web.serve("/a", CONTENT, rate=100_000)
    interrupted(url, tmp_path, web, 100_000, signal.SIGKILL)
    other = CONTENT[::-1]
    web.serve("/a", other, etag='"2"')
    web.requests.clear()
    assert fetch(url, tmp_path) == other
    assert web.sent == len(CONTENT) + 1


@pytest.mark.parametrize(
    "state", ["", "{", '{"size": 700001, "validator": "ETag \\"1\\"", "ranges": [[0, 900000]]}', "[]"]
)
def test_state_that_can_not_be_true_is_not_believed(state: str, web: WebServer, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"x" * 100)
    (tmp_path / "a.part.json").write_text(state)
    assert fetch(web.serve("/a", CONTENT), tmp_path) == CONTENT


def test_faults_lose_nothing_that_was_received(web: WebServer, tmp_path: Path) -> None:
    url = web.serve("/a", CONTENT, always_cut_after=0)
    web.files["/a"].statuses = [0] * 3 + [403]
    with pytest.raises(InputError):
        fetch(url, tmp_path)
    web.requests.clear()
    held = sum(b - a for a, b in json.loads((tmp_path / "a.part.json").read_text())["ranges"])
    assert fetch(url, tmp_path) == CONTENT
    assert web.sent == len(CONTENT) - held + 1


def test_finished_files_are_not_asked_for_again(web: WebServer, tmp_path: Path) -> None:
    url = web.serve("/a", CONTENT)
    fetch(url, tmp_path)
    (tmp_path / "a.part.json").write_text("left by a process that was killed just then")
    web.requests.clear()
    fetch(url, tmp_path)
    assert web.sent == 1


def test_checksum(web: WebServer, tmp_path: Path) -> None:
    (file,) = list_source(read_uri(web.serve("/a", CONTENT), "s"), QUICK).files
    file.sha256 = hashlib.sha256(CONTENT).hexdigest().upper()
    fetch_files([file], tmp_path, QUICK, Progress("test"))
    file.sha256 = "00" * 32
    with pytest.raises(InputError, match=r"a has SHA-256 .* expected was 0000"):
        fetch_files([file], tmp_path / "again", QUICK, Progress("test"))
    assert list((tmp_path / "again").iterdir()) == []


def test_full_disk_is_told_before_anything_is_fetched(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 600_000, 600_000))
    url = web.serve("/a", CONTENT)
    with pytest.raises(StageError, match=r"0 MB free|1 MB free.*1 MB have to be fetched"):
        fetch(url, tmp_path)
    assert web.sent == 1


def test_several_files(web: WebServer, tmp_path: Path) -> None:
    contents = {f"f{number:02d}": CONTENT[number : number * 20_000] for number in range(12)}
    for name, content in contents.items():
        web.serve(f"/d/{name}", content, cuts={5000})
    listing = list_source(read_uri(f"{web.url}/d/", "s"), QUICK, known=sorted(contents))
    fetch_files(listing.files, tmp_path, QUICK, Progress("test"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_folder_of_a_web_server_needs_names(web: WebServer) -> None:
    with pytest.raises(InputError, match="can't be asked what is in it"):
        list_source(read_uri(f"{web.url}/d/", "s"), QUICK)


def test_identity_follows_the_source(web: WebServer) -> None:
    def identity(**behaviour: str) -> str:
        uri = read_uri(web.serve("/a", CONTENT, **behaviour), "s")
        return listing_identity(list_source(uri, QUICK).files)

    assert identity() == identity()
    assert identity(etag='"2"') != identity()


def test_progress_tells_rate_and_time_left(web: WebServer, tmp_path: Path) -> None:
    content = CONTENT * 5
    listing = list_source(read_uri(web.serve("/a.zip", content, rate=800_000), "s"), QUICK)
    seen = []

    class Recorder(Progress):
        def _write(self, state, **values):  # type: ignore[no-untyped-def]
            seen.append((self._activity, self._unit, self._total, values))

    fetch_files(listing.files, tmp_path, QUICK, Recorder("test", tmp_path / "p.json"))
    activity, unit, total, last = seen[-1]
    assert (activity, unit, total, last["done"]) == ("fetching a.zip", "MB", 4, 4)
    assert any(values["left_s"] for *_, values in seen)
    assert 0.05 < last["rate"] < 5  # MB/s, of 0.8 that the server gives; a busy machine has less


# What may be shown.


def test_basic_authentication(web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.serve("/a", CONTENT, users="me:s3cret")
    monkeypatch.setenv("DATA_URL", web.url.replace("http://", "http://me:s3cret@") + "/a")
    assert fetch("${DATA_URL}", tmp_path / "url-user") == CONTENT
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert fetch(f"{web.url}/a", tmp_path / "netrc-user") == CONTENT
    monkeypatch.setenv("NETRC", "/nowhere")
    monkeypatch.setenv("DATA_URL", web.url.replace("http://", "http://me:wr0ng@") + "/a")
    with pytest.raises(InputError, match="No access") as caught:
        fetch("${DATA_URL}", tmp_path / "again")
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize(
    "behaviour", [{"statuses": [403]}, {"statuses": [404]}, {"statuses": [500] * 99}, {"stalls": 99, "stall_s": 1.0}]
)
@pytest.mark.parametrize("early", [True, False])
def test_signature_is_never_shown(
    behaviour: dict[str, object],
    early: bool,
    web: WebServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = web.serve("/a", CONTENT, after_first_byte=not early, **copy.deepcopy(behaviour))
    monkeypatch.setenv("DATA_URL", f"{url}?X-Amz-Signature=abcdef0123&X-Amz-Credential=AKIDEXAMPLE")
    with pytest.raises(VlmError) as caught:
        fetch("${DATA_URL}", tmp_path, QUICK.model_copy(update={"timeout_s": 0.2}))
    said = str(caught.value) + capsys.readouterr().out + repr(read_uri("${DATA_URL}", "s"))
    assert "abcdef0123" not in said
    assert "AKIDEXAMPLE" not in said
    assert "abcdef0123" in web.requests[-1].path, "the server got it"


def test_unreachable_host_with_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_URL", "http://me:s3cret@127.0.0.1:9/a?sig=abcdef0123")
    with pytest.raises(StageError) as caught:
        fetch("${DATA_URL}", tmp_path)
    assert "s3cret" not in str(caught.value) + capsys.readouterr().out
    assert "abcdef0123" not in str(caught.value) + capsys.readouterr().out


def test_proxy_of_the_environment(web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A plain HTTP proxy gets the whole URL as the path.
    monkeypatch.setenv("HTTP_PROXY", web.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    web.serve("http://data.example/a", CONTENT)
    assert fetch("http://data.example/a", tmp_path) == CONTENT
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert fetch(web.serve("/b", CONTENT), tmp_path / "b") == CONTENT
    assert web.requests[-1].path == "/b"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed but itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


def test_certificates_of_the_environment(certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    with web_server(certificate) as secure:
        url = secure.serve("/a", CONTENT)
        with pytest.raises(StageError, match=r"certificate is not trusted here.*REQUESTS_CA_BUNDLE or SSL_CERT_FILE"):
            fetch(url, tmp_path)
        for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(certificate))
            assert fetch(url, tmp_path / name) == CONTENT
            monkeypatch.delenv(name)


# Ranges.

_RANGES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=8
)


@given(ranges=_RANGES, longest=st.integers(1, 30))
def test_missing_ranges_are_what_is_not_there(ranges: list[tuple[int, int]], longest: int) -> None:
    size = 80
    there = {byte for start, end in ranges for byte in range(start, end)}
    missing = missing_ranges(joined(ranges), size, longest)
    assert all(0 < end - start <= longest for start, end in missing)
    assert sorted(byte for start, end in missing for byte in range(start, end)) == sorted(set(range(size)) - there)


def test_link_or_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    link_or_copy(tmp_path / "a", tmp_path / "x" / "b", Progress("test"))
    assert (tmp_path / "x" / "b").samefile(tmp_path / "a")

    def elsewhere(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", elsewhere)
    link_or_copy(tmp_path / "a", tmp_path / "x" / "b", Progress("test"))
    assert not (tmp_path / "x" / "b").samefile(tmp_path / "a")
    assert (tmp_path / "x" / "b").read_bytes() == CONTENT
