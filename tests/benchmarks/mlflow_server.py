"""Processes and memory of MLflow's server, with and without its job execution.

python -m tests.benchmarks.mlflow_server [--workers 2] [--jobs]
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import requests

SETTLE_S = 25.0


def main() -> None:
    """Start the server, let it settle, and print what its process tree holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, help="MLflow's own number by default")
    parser.add_argument("--jobs", action="store_true", help="leave job execution on, as MLflow does")
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            f"--port={port}",
            f"--backend-store-uri=sqlite:///{name}/m.db",
        ]
        command += [f"--artifacts-destination={name}/artifacts"]
        command += [f"--workers={options.workers}"] if options.workers else []
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": str(options.jobs).lower()}
        with open(Path(name) / "log", "wb") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(server, port)
            tree = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
            memory = sum(process.memory_full_info().pss for process in tree)
            print(
                f"workers {options.workers or 'default'}, jobs {options.jobs}: {len(tree)} processes, PSS {memory / 2**20:.0f} MiB"
            )
        finally:
            for process in psutil.Process(server.pid).children(recursive=True):
                process.kill()
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    while server.poll() is None:
        try:
            if requests.get(f"http://127.0.0.1:{port}/health", timeout=1).ok:
                time.sleep(SETTLE_S)
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise SystemExit("the server ended")


if __name__ == "__main__":
    main()
