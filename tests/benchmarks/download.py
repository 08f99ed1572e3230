"""Speed of fetching from servers on this machine, beside the speed of copying a file.

    python -m tests.benchmarks.download [--megabytes 1024] [--repeat 3]

The servers (SeaweedFS; Python's own HTTP server with ranges) share this machine's cores and disk with the fetch: the figures
are what the fetch can do at most, not what a network gives. Everything is written below a temporary folder and removed.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from components.cores import available_cores
from components.progress import Progress
from components.storage.config import TransferConfig
from components.storage.listing import list_source
from components.storage.transfer import fetch_files
from components.storage.uri import read_uri
from tests.support.s3_server import s3_server
from tests.support.web_server import web_server

_BLOCK = 4 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024, help="size of the file")
    parser.add_argument("--repeat", type=int, default=3, help="times that each is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vlm-download-") as name:
        measure(Path(name), options.megabytes, options.repeat)


def measure(folder: Path, megabytes: int, repeat: int) -> None:
    """Measure everything and print a Markdown table."""
    content = os.urandom(megabytes * 1_000_000)
    source = folder / "source.bin"
    source.write_bytes(content)
    rows = [("copy and fsync", "", _speed(lambda target: _copy(source, target), folder, len(content), repeat))]
    with web_server() as web:
        url = web.serve("/file.bin", content)
        for connections in (1, 8):
            rows.append(("HTTP", str(connections), _speed(_fetch(url, connections), folder, len(content), repeat)))
    (folder / "s3").mkdir()
    with s3_server(folder / "s3") as server:
        os.environ.update(server.environment())
        server.client.create_bucket(Bucket="data")
        server.client.upload_file(str(source), "data", "file.bin")
        for connections in (1, 8):
            speed = _speed(_fetch("s3://data/file.bin", connections), folder, len(content), repeat)
            rows.append(("S3", str(connections), speed))
    print(f"\n{megabytes} MB, {available_cores()} cores, median of {repeat}\n")
    print("| way | connections | MB/s |\n|---|---|---|")
    for way, connections, speed in rows:
        print(f"| {way} | {connections} | {speed:.0f} |")


def _fetch(url: str, connections: int) -> Callable[[Path], None]:
    config = TransferConfig(connections=connections)

    def fetch(target: Path) -> None:
        fetch_files(list_source(read_uri(url, "benchmark"), config).files, target, config, Progress("benchmark"))

    return fetch


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    with open(source, "rb") as reader, open(target / "copy.bin", "wb") as writer:
        shutil.copyfileobj(reader, writer, _BLOCK)
        os.fsync(writer.fileno())


def _speed(action: Callable[[Path], None], folder: Path, size: int, repeat: int) -> float:
    """Return the median of MB/s."""
    speeds = []
    for _ in range(repeat):
        target = folder / "target"
        start = time.perf_counter()
        action(target)
        speeds.append(size / 1e6 / (time.perf_counter() - start))
        shutil.rmtree(target)
    return statistics.median(speeds)


if __name__ == "__main__":
    main()
