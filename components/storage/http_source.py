"""`http://` and `https://`: files of web servers, by ranges where the server gives them.

Proxies (HTTP_PROXY, HTTPS_PROXY, NO_PROXY), certificates (REQUESTS_CA_BUNDLE, SSL_CERT_FILE) and passwords (`.netrc`)
come from the environment.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import quote

import requests
import urllib3
from requests.adapters import HTTPAdapter

from components.errors import InputError, StageError
from components.storage.config import TransferConfig
from components.storage.faults import patiently
from components.storage.remote import (
    CHUNK_BYTES,
    FileFacts,
    Listing,
    PassingFault,
    RangesIgnored,
    SourceChanged,
    check_status,
)
from components.storage.uri import SourceUri

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_HINT = (
    "A server that wants a user and a password takes them from ~/.netrc or from the URI; a presigned URI ends "
    "at its time: make a new one."
)


class HttpClient:
    """Asks web servers, from several threads.

    Args:
        config: Number of connections, timeout.
    """

    def __init__(self, config: TransferConfig) -> None:
        self._session = requests.Session()
        # Attempts are counted in one place (faults.py): none here.
        adapter = HTTPAdapter(pool_connections=config.connections, pool_maxsize=config.connections, max_retries=0)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        if bundle := ca_bundle():
            self._session.verify = bundle
        self._timeout_s = config.timeout_s

    @contextmanager
    def get(
        self, url: str, shown: str, headers: Mapping[str, str], hint: str = _HINT, unsatisfiable: bool = False
    ) -> Iterator[requests.Response]:
        """Open a response; its body is read by the block.

        Args:
            url: The whole URL.
            shown: The URL without secrets.
            headers: Request headers.
            hint: What to do where access is refused.
            unsatisfiable: Whether the answer 416 is for the block.

        Raises:
            PassingFault: No connection, a server fault, or a cut within the block.
            SourceChanged: The server says that a range lies behind the file's end.
            InputError: The file is missing or forbidden, or the URL is none.
            StageError: The server's certificate is not trusted.
        """
        try:
            response = self._session.get(
                url,
                headers={"Accept-Encoding": "identity", **headers},
                auth=_as_it_is if "Authorization" in headers else None,
                stream=True,
                timeout=self._timeout_s,
            )
            with response:
                if not (unsatisfiable and response.status_code == requests.codes.requested_range_not_satisfiable):
                    check_status(response.status_code, shown, response.headers.get("Retry-After"), hint)
                yield response
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.TooManyRedirects) as error:
            raise InputError(f"{shown} can't be fetched: {type(error).__name__}.") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            reason = _innermost(error)
            if "CERTIFICATE_VERIFY_FAILED" in reason:
                raise StageError(
                    f"{shown}: the server's certificate is not trusted here ({reason}). Name your organisation's "
                    "certificates in REQUESTS_CA_BUNDLE or SSL_CERT_FILE."
                ) from None
            raise PassingFault(reason) from None


class HttpFile:
    """A file of a web server; see `RemoteFile`.

    Args:
        client: Asks the server.
        url: The whole URL.
        name: Relative path that the file is stored under.
        shown: The URL without secrets.
        facts: What is known of the file; None to ask the server, whose ETag or time of change is then watched.
        headers: Headers of every request.
        hint: What to do where access is refused.
        sha256: Its checksum where the source tells it.
    """

    def __init__(
        self,
        client: HttpClient,
        url: str,
        name: str,
        shown: str,
        facts: FileFacts | None = None,
        headers: Mapping[str, str] | None = None,
        hint: str = _HINT,
        sha256: str = "",
    ) -> None:
        self._client, self._url, self._headers, self._hint = client, url, dict(headers or {}), hint
        self.name, self.shown, self.sha256 = name, shown, sha256
        self._watched = facts is None
        self.facts = facts or self._ask()

    def refresh(self) -> None:
        """Ask the server again for size, validator and ranges."""
        if self._watched:
            self.facts = self._ask()

    def read(self, start: int, end: int | None) -> Iterator[bytes]:
        """Yield the bytes of a range, or of the whole file where the server gives no ranges."""
        headers = self._headers
        if self.facts.ranges:
            headers = {**headers, "Range": f"bytes={start}-{'' if end is None else end - 1}"}
        with self._client.get(self._url, self.shown, headers, self._hint) as response:
            expected = self._check(response, start, end)
            received = 0
            while chunk := response.raw.read1(CHUNK_BYTES, decode_content=False):
                received += len(chunk)
                yield chunk
            if expected is not None and received != expected:
                raise PassingFault(f"the connection was cut after {received} of {expected} bytes")

    def _check(self, response: requests.Response, start: int, end: int | None) -> int | None:
        """Check what the headers promise; return the number of bytes that must follow, if known."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise InputError(f"{self.shown}: the server compresses what was asked for as it is. Use another server.")
        if self._watched and _validator(response) != self.facts.validator:
            raise SourceChanged("its ETag or time of change is another")
        if not self.facts.ranges:
            length = self._length(response, self.facts.size)
            if None not in (self.facts.size, length) and length != self.facts.size:
                raise SourceChanged(f"its size is {length}, it was {self.facts.size}")
            return length
        if response.status_code != requests.codes.partial_content:
            raise RangesIgnored
        first, last, total = _content_range(response)
        if total is not None and total != self.facts.size:
            raise SourceChanged(f"its size is {total}, it was {self.facts.size}")
        if first != start or last is None or not start <= last < (end or self.facts.size or 0):
            raise InputError(
                f"{self.shown}: asked for bytes {start} to {end}, the server sent {response.headers.get('Content-Range')!r}. "
                "Use another server, or copy the file to a place that can be trusted."
            )
        return last + 1 - start

    def _ask(self) -> FileFacts:
        """Ask for the first byte: unlike HEAD this is allowed by presigned URLs, and it shows whether ranges work."""
        headers = {**self._headers, "Range": "bytes=0-0"}
        with self._client.get(self._url, self.shown, headers, self._hint, unsatisfiable=True) as response:
            if response.status_code == requests.codes.partial_content:
                first, last, total = _content_range(response)
                if (first, last) == (0, 0) and total is not None:
                    _ = response.content  # one byte: the connection can be used again
                    return FileFacts(total, _validator(response))
            elif response.status_code == requests.codes.requested_range_not_satisfiable:
                if _content_range(response)[2] == 0:  # an empty file has no first byte
                    return FileFacts(0, _validator(response))
                raise InputError(f"{self.shown} can't be fetched: the server refuses to send its first byte.")
            size = self._length(response, None) if response.status_code == requests.codes.ok else None
            return FileFacts(size, _validator(response), ranges=False)

    def _length(self, response: requests.Response, known: int | None) -> int | None:
        """Return how many bytes a whole file has; None where the end is marked instead."""
        length = response.headers.get("Content-Length")
        if length is not None:
            return int(length)
        if response.headers.get("Transfer-Encoding", "").lower() != "chunked":
            if known is not None:
                return known
            raise InputError(
                f"{self.shown}: the server does not say how long the file is, so that a cut could not be noticed. "
                "Use another server."
            )
        return None


def list_http(uri: SourceUri, config: TransferConfig, known: Sequence[str] = ()) -> Listing:
    """List a file of a web server, or the known files of one of its folders.

    Args:
        uri: A file; or a folder, ending with a slash.
        config: How to ask.
        known: Names of the folder's files: a web server can't be asked for them.

    Raises:
        InputError: The file is missing or forbidden, or the folder's files are not known.
    """
    client = HttpClient(config)
    address, mark, query = uri.full.partition("?")

    def opened(url: str, name: str, shown: str) -> HttpFile:
        return patiently(lambda: HttpFile(client, url, name, shown), shown, config)

    if uri.name:
        return Listing(uri.shown, (opened(uri.full, uri.name, uri.shown),))
    if not known:
        raise InputError(
            f"{uri.shown} is a folder, and a web server can't be asked what is in it. Name its files one by one, or give a "
            "lock file that lists them."
        )
    return Listing(
        uri.shown, tuple(opened(f"{address}{quote(name)}{mark}{query}", name, uri.shown + name) for name in known)
    )


def ca_bundle() -> str:
    """Return the file of certificates that the environment names; empty for the default."""
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep a request's own authorization: ~/.netrc would replace it."""
    return request


def _validator(response: requests.Response) -> str:
    for header in ("ETag", "Last-Modified"):
        if value := response.headers.get(header):
            return f"{header} {value}"
    return ""


def _content_range(response: requests.Response) -> tuple[int | None, int | None, int | None]:
    """Return first byte, last byte and size of a Content-Range header; None for what it does not say."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None:
        return None, None, None
    first, last, total = (int(text) if text and text != "*" else None for text in match.groups())
    return first, last, total


def _innermost(error: BaseException) -> str:
    """Return the reason behind nested exceptions; the outer ones repeat the whole URL."""
    seen = error
    while True:
        inner = getattr(seen, "reason", None) or next((part for part in seen.args if isinstance(part, Exception)), None)
        if not isinstance(inner, Exception):
            return f"{type(seen).__name__}: {seen}" if str(seen) else type(seen).__name__
        seen = inner
