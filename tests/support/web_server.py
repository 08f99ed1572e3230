"""A real HTTP server that misbehaves as it is told: cuts, stalls, throttles, lies about length, ignores ranges, refuses."""

import base64
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_BLOCK = 16 << 10
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Served:
    """One file and how it is served.

    Attributes:
        content: Its bytes.
        etag: The ETag header; empty for none.
        modified: The Last-Modified header; empty for none.
        ranges: Whether ranges are answered with 206; else with the whole file.
        statuses: Answers to the next requests (the first byte's excepted with `after_first_byte`) before it is served.
        retry_after: The Retry-After header of these answers.
        after_first_byte: Misbehave only when more than the first byte is asked for.
        cuts: Offsets at which the connection is cut, each once.
        always_cut_after: Bytes after which every response is cut; 0 for never.
        claims: Size that is claimed instead of the true one.
        shifted: Bytes by which answered ranges are off.
        chunked: Send it chunked, without a length.
        unmarked: Send it without any length; the connection's end is the end.
        stalls: How many of the next responses say nothing after the headers for `stall_s`.
        stall_s: Seconds of a stall.
        rate: Bytes per second of each response; 0 for no limit.
        users: "user:password" that must be given as basic authentication; empty for anyone.
        bearer: Token that must be given; empty for anyone.
        redirect: Where to send requests instead.
    """

    content: bytes
    etag: str = '"1"'
    modified: str = ""
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    retry_after: str = ""
    after_first_byte: bool = True
    cuts: set[int] = field(default_factory=set)
    always_cut_after: int = 0
    claims: int | None = None
    shifted: int = 0
    chunked: bool = False
    unmarked: bool = False
    stalls: int = 0
    stall_s: float = 0.0
    rate: float = 0.0
    users: str = ""
    bearer: str = ""
    redirect: str = ""


@dataclass
class Request:
    """One request as it was answered: path with query, asked range, status, body bytes that were handed to the socket."""

    path: str
    asked: str
    status: int = 0
    sent: int = 0
    authorization: str = ""


class WebServer:
    """The running server.

    Attributes:
        url: Its address, without a slash at the end.
        files: Path to file; may be changed while it runs.
        requests: What was asked.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        outer = self

        class Handler(_Handler):
            world = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def serve(self, path: str, content: bytes, **behaviour: Any) -> str:
        """Serve a file and return its URL."""
        self.files[path] = Served(content, **behaviour)
        return self.url + path

    @property
    def sent(self) -> int:
        """Body bytes that were sent in all."""
        return sum(request.sent for request in self.requests)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def web_server(certificate: Path | None = None) -> Iterator[WebServer]:
    """Run a server for the block; with a certificate and its key in one file it speaks HTTPS."""
    server = WebServer(certificate)
    try:
        yield server
    finally:
        server.close()


class _Cut(Exception):
    """The connection is cut here."""


class _Handler(BaseHTTPRequestHandler):
    world: WebServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        request = Request(self.path, asked, authorization=self.headers.get("Authorization", ""))
        with self.world.lock:
            self.world.requests.append(request)
        try:
            self._answer(request, asked)
        except (_Cut, BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            # Said by hand: the socket has other references that would keep it open.
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, request: Request, asked: str) -> None:
        served = self.world.files.get(self.path.partition("?")[0])
        if served is None:
            return self._plain(request, 404)
        if not self._allowed(served):
            return self._plain(request, 401)
        if served.redirect:
            return self._plain(request, 302, {"Location": served.redirect})
        probing = served.after_first_byte and asked == "bytes=0-0"
        with self.world.lock:
            status = served.statuses.pop(0) if served.statuses and not probing else 0
            stalls = served.stalls > 0 and not probing
            served.stalls -= stalls
        if status:
            return self._plain(request, status, {"Retry-After": served.retry_after} if served.retry_after else {})
        size = len(served.content) if served.claims is None else served.claims
        start, end = 0, size
        match = _RANGE.fullmatch(asked)
        if match and served.ranges:
            start = int(match[1]) + (0 if probing else served.shifted)
            end = min(size, int(match[2]) + 1 if match[2] else size)
            if start >= len(served.content):
                return self._plain(request, 416, {"Content-Range": f"bytes */{size}", **self._validators(served)})
            request.status = 206
        else:
            request.status = 200
        self.send_response(request.status)
        for name, value in self._validators(served).items():
            self.send_header(name, value)
        if request.status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if served.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif not served.unmarked:
            self.send_header("Content-Length", str(end - start))
        if served.unmarked:
            self.send_header("Connection", "close")
        self.end_headers()
        if stalls:
            time.sleep(served.stall_s)
        self._body(request, served, start, end)
        if served.unmarked:
            self.close_connection = True
        return None

    def _body(self, request: Request, served: Served, start: int, end: int) -> None:
        at = start
        while at < end:
            stop = min(end, at + _BLOCK, len(served.content))
            if served.always_cut_after:
                stop = min(stop, start + served.always_cut_after)
            with self.world.lock:
                cut = min((cut for cut in served.cuts if at <= cut <= stop), default=None)
                if cut is not None:
                    served.cuts.discard(cut)
                    stop = cut
            block = served.content[at:stop]
            request.sent += len(block)  # before the client can have it: it may be asked for as soon as that is the case
            if served.chunked and block:
                self.wfile.write(f"{len(block):x}\r\n".encode())
            self.wfile.write(block)
            if served.chunked and block:
                self.wfile.write(b"\r\n")
            self.wfile.flush()
            at = stop
            if served.rate:
                time.sleep(len(block) / served.rate)
            if cut is not None or not block or (served.always_cut_after and at >= start + served.always_cut_after):
                raise _Cut
        if served.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _allowed(self, served: Served) -> bool:
        given = self.headers.get("Authorization", "")
        basic = "Basic " + base64.b64encode(served.users.encode()).decode()
        return (not served.users or given == basic) and (not served.bearer or given == f"Bearer {served.bearer}")

    def _validators(self, served: Served) -> dict[str, str]:
        both = {"ETag": served.etag, "Last-Modified": served.modified}
        return {name: value for name, value in both.items() if value}

    def _plain(self, request: Request, status: int, headers: dict[str, str] | None = None) -> None:
        request.status = status
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
