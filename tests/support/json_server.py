"""What small API servers of tests share: they speak JSON, say nothing, and don't mind clients that are killed."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

Object = dict[str, Any]


class JsonServer(ThreadingHTTPServer):
    """A server on a free port of this machine, in threads of its own; `state` is what its handlers work on."""

    daemon_threads = True

    def __init__(self, handler: type["JsonHandler"], state: Any) -> None:
        super().__init__(("127.0.0.1", 0), type(handler.__name__, (handler,), {"state": state}))
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error here."""


class JsonHandler(BaseHTTPRequestHandler):
    """Hands every request to `serve`, its path, query and body taken apart."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # header and body are two writes: the second would wait 40 ms for the first's receipt
    )

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def serve(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        raise NotImplementedError

    def answer(self, code: int, answer: Object) -> None:
        data = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _serve(self) -> None:
        url = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.serve(self.command, url.path, query, body)
