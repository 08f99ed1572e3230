"""A real MLflow server that can be killed and started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests

from tests.support.ports import free_port

_START_WAIT_S = 120.0


class MlflowServer:
    """A server with a database and artifacts of its own, on a port that stays.

    Args:
        folder: Holds database, artifacts and log.
        database: URI of another database.
    """

    def __init__(self, folder: Path, database: str = "") -> None:
        self._folder = folder
        self.uri = f"http://127.0.0.1:{free_port()}"
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self.uri.rpartition(':')[2]}"),
            f"--backend-store-uri={database or f'sqlite:///{folder}/server.db'}",
            f"--artifacts-destination={folder}/stored",
            "--workers=1",
        ]
        self._environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers; once again without the command, whose imports are half of the start."""
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, start_new_session=True, env=self._environment
            )
        deadline = time.monotonic() + _START_WAIT_S
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{self.uri}/health", timeout=1).ok:
                    break
            except requests.RequestException:
                time.sleep(0.2)
        else:
            raise AssertionError((self._folder / "server.log").read_text())
        for server in psutil.Process(self._process.pid).children():
            self._command, self._environment = server.cmdline(), server.environ()

    def kill(self) -> None:
        """End it at once, with its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def running(server: MlflowServer) -> Iterator[str]:
    """Start a server, yield its address, and end it with the block."""
    try:
        server.start()
        yield server.uri
    finally:
        server.kill()
