"""Speed and memory of the conversion of a streamed dataset, beside a plain loop of `datasets` and the disk.

    python -m tests.benchmarks.streamed_conversion [--size 1] [--rows 10000 200000] [--folder DIR]

Makes `--size` gigabytes of photo-like JPEGs (35 to 65 KB, every one different) in parquet files with row groups of 100 rows and
converts them: a plain loop (`load_dataset(..., streaming=True)`, pictures undecoded, webdataset's ShardWriter), then ours with one
process and with all, with every check of pictures. Before each way the file cache is asked to forget the files, and all that is
written is fsynced within the time. "Copy" is the files copied and fsynced: the bound that the disk sets. A second table shows the
peak memory of a process that plans and writes for each number of `--rows` with tiny pictures. Needs three times `--size` on the
disk.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import parquet

from components.cores import available_cores
from components.data.image_settings import ImageCheck
from components.progress import Progress
from components.sources.config import DatasetSource
from components.sources.recorded import RecordedMixture, mixture_file, write_mixture
from components.sources.recording import look_at
from components.storage.config import TransferConfig
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.conversion import convert
from tests.benchmarks.wds_conversion import (
    CHECKS,
    DISTINCT_PICTURES,
    SHARD_SAMPLES,
    different,
    fsync_below,
    jpeg,
    peak_memory,
    photo,
)

GROUP_ROWS = 100
FILE_ROWS = 5000


class Taken(NamedTuple):
    """Seconds that passed, and seconds of processors: these say the same on a busy machine."""

    seconds: float
    busy: float


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=1.0, help="gigabytes of pictures; 0 for no speeds")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 200_000], help="rows of the memory measurement")
    parser.add_argument("--folder", type=Path, help="where to work, on the disk that is measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if arguments.size:
            measure_speed(folder, int(arguments.size * 1e9))
        if arguments.rows:
            measure_memory(folder, arguments.rows)


def measure_speed(folder: Path, size: int) -> None:
    """Print the table of speeds."""
    import datasets  # noqa: F401  # whoever comes first would pay for the imports
    import webdataset  # noqa: F401

    rng = random.Random(0)
    distinct = [photo(rng) for _ in range(DISTINCT_PICTURES)]
    source = folder / "source"
    count = size // (sum(map(len, distinct)) // len(distinct))
    write_dataset(source, count, distinct)
    total = sum(path.stat().st_size for path in source.iterdir())
    print(f"{count} pictures, {total / 1e9:.2f} GB, {available_cores()} cores", flush=True)
    timings = [("copy of the files", timed(source, folder / "copy", copy))]
    timings.append(("plain loop: datasets, ShardWriter", timed(source, folder / "plain", plain_loop)))
    for processes in dict.fromkeys((1, available_cores())):
        for check in CHECKS:
            way = f"this stage, {processes} process{'es' if processes > 1 else ''}, check_images={check}"

            def ours(source: Path, output: Path, check: ImageCheck = check, processes: int = processes) -> None:
                stream(source, output, check, processes)

            timings.append((way, timed(source, folder / "ours", ours)))
    (_, by_copy), (_, by_loop) = timings[:2]
    print("\n| way | samples/s | MB/s | processor ms a sample | against the plain loop | against the copy |")
    print("|---|---|---|---|---|---|")
    for way, (seconds, busy) in timings:
        print(
            f"| {way} | {count / seconds:.0f} | {total / seconds / 1e6:.0f} | {1000 * busy / count:.2f} | "
            f"{by_loop.seconds / seconds:.2f} | {by_copy.seconds / seconds:.2f} |"
        )


def measure_memory(folder: Path, rows: list[int]) -> None:
    """Print the table of memory."""
    print("\n| rows | seconds | peak memory |\n|---|---|---|", flush=True)
    for number in rows:
        source = folder / f"rows-{number}"
        write_dataset(source, number, [jpeg(16, 16, 1, 50)])
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            seconds, peak = pool.submit(_memory, source, folder / f"memory-{number}").result()
        print(f"| {number} | {seconds:.0f} | {peak / 1e3:.0f} MB |", flush=True)
        shutil.rmtree(folder / f"memory-{number}")


def _memory(source: Path, output: Path) -> tuple[float, int]:
    start = time.monotonic()
    stream(source, output, "header", 1)
    return time.monotonic() - start, peak_memory(os.getpid())


def write_dataset(folder: Path, count: int, distinct: list[bytes]) -> None:
    """Write parquet files of captions, as `datasets` stores pictures."""
    folder.mkdir()
    rng = random.Random(0)
    for first in range(0, count, FILE_ROWS):
        numbers = range(first, min(first + FILE_ROWS, count))
        pictures = [{"bytes": different(distinct[n % len(distinct)], n), "path": f"{n:09d}.jpg"} for n in numbers]
        captions = [" ".join(rng.choices(["a", "photo", "of", "the", "blue", "house"], k=12)) for _ in numbers]
        path = folder / f"train-{first // FILE_ROWS:05d}.parquet"
        parquet.write_table(pa.table({"image": pictures, "caption": captions}), path, row_group_size=GROUP_ROWS)
    fsync_below(folder)


def timed(source: Path, output: Path, way: Callable[[Path, Path], None]) -> Taken:
    """Return what a way takes from cold files; its output is removed."""
    for path in source.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    start, busy = time.monotonic(), sum(os.times()[:4])
    way(source, output)
    taken = Taken(time.monotonic() - start, sum(os.times()[:4]) - busy)
    shutil.rmtree(output)
    print(f"{way.__name__}: {taken.seconds:.1f} s, {taken.busy:.1f} s of processors", flush=True)
    return taken


def copy(source: Path, output: Path) -> None:
    """Copy the files."""
    shutil.copytree(source, output)
    fsync_below(output)


def plain_loop(source: Path, output: Path) -> None:
    """Do what one would write in ten lines."""
    import datasets
    import webdataset  # it imports torch, and worker processes import this module anew

    output.mkdir()
    files = sorted(str(path) for path in source.iterdir())
    rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    with webdataset.ShardWriter(str(output / "pretrain-%06d.tar"), maxcount=SHARD_SAMPLES, verbose=0) as sink:
        for number, row in enumerate(rows):
            turns = [{"from": "human", "value": "<image>\n"}, {"from": "gpt", "value": row["caption"]}]
            sink.write({"__key__": f"{number:09d}", "jpg": row["image"]["bytes"], "json": json.dumps(turns).encode()})
    fsync_below(output)


def stream(source: Path, output: Path, check: ImageCheck, processes: int) -> None:
    """Look at the dataset, and convert it."""
    output.mkdir()
    progress = Progress("benchmark")
    looked = look_at(DatasetSource(uri=source.as_uri()), "the benchmark", TransferConfig(), progress)
    write_mixture(mixture_file(output / "pretrain.json"), RecordedMixture(datasets=(looked.dataset,)))
    config = WdsConversionConfig(
        annotations="pretrain.json", prefix="pretrain", samples_per_shard=SHARD_SAMPLES, check_images=check
    )
    convert(output, output, config, processes, progress)


if __name__ == "__main__":
    main()
