"""A remote file as an open file: any place, cut connections, changed content."""

import io
import random
import zipfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.errors import InputError
from components.storage.config import TransferConfig
from components.storage.listing import list_source
from components.storage.seekable import open_source
from components.storage.uri import read_uri
from tests.support.web_server import WebServer, web_server

CONTENT = random.Random(0).randbytes(200_000)
CONFIG = TransferConfig(attempts=3, first_wait_s=0.01, timeout_s=5)


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


def _open(url: str) -> io.BufferedReader:
    (file,) = list_source(read_uri(url, "a test"), CONFIG).files
    stream = open_source(file, CONFIG)
    assert isinstance(stream, io.BufferedReader)
    return stream


_STEPS = st.lists(st.tuples(st.integers(-50, len(CONTENT) + 50), st.integers(0, 70_000)), max_size=5)


@given(_STEPS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_reads_as_a_local_file(web: WebServer, steps: list[tuple[int, int]]) -> None:
    local, remote = io.BytesIO(CONTENT), _open(web.serve("/file", CONTENT))
    for place, length in steps:
        for whence, offset in ((io.SEEK_SET, max(0, place)), (io.SEEK_END, -min(max(0, place), len(CONTENT)))):
            assert remote.seek(offset, whence) == local.seek(offset, whence)
            assert remote.read(length) == local.read(length)
            assert remote.tell() == local.tell()


def test_cut_connections_go_on_from_the_byte_reached(web: WebServer) -> None:
    url = web.serve("/cut", CONTENT, cuts={10_000, 50_000, 150_000})
    assert _open(url).read() == CONTENT


def test_a_server_that_cuts_always_without_a_byte_is_given_up(web: WebServer) -> None:
    url = web.serve("/never", CONTENT, statuses=[503] * 50)
    with pytest.raises(Exception, match="gave up after 3 attempts"):
        _open(url).read()


def test_a_file_that_changes_meanwhile_is_refused(web: WebServer) -> None:
    url = web.serve("/changed", CONTENT)
    stream = _open(url)
    web.serve("/changed", CONTENT[:-1], etag='"2"')
    with pytest.raises(InputError, match="changed while it was read"):
        stream.read(10)


def test_a_server_without_ranges_is_refused(web: WebServer) -> None:
    with pytest.raises(InputError, match="can't be streamed: its server does not answer requests for a part"):
        _open(web.serve("/whole", CONTENT, ranges=False))


def test_a_zip_is_read_in_place(web: WebServer) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", CONTENT)
    with zipfile.ZipFile(_open(web.serve("/images.zip", buffer.getvalue()))) as archive:
        assert archive.read("a.jpg") == CONTENT
