"""Speed and memory of the WebDataset conversion, beside the reference's way and the disk.

    python -m tests.benchmarks.wds_conversion [--size 2] [--entries 558128] [--folder DIR]

Makes `--size` gigabytes of photo-like JPEGs (35 to 65 KB, every one different) in a stored zip and converts them: the reference's
way (unzip, then one process with webdataset's ShardWriter), then ours with one process and with all, with every check of
pictures. Before each way the file cache is asked to forget the zip, and all that is written is fsynced within the time.
"Copy" is the zip copied and fsynced: the bound that the disk sets. A second table shows the memory for an annotation
file of `--entries` entries (0 leaves it out) with tiny pictures. Needs three times `--size` on the disk.
"""

import argparse
import io
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image

from components.cores import available_cores
from components.data.image_settings import ImageCheck
from components.progress import Progress
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.conversion import convert

DISTINCT_PICTURES = 300
SHARD_SAMPLES = 2000
CHECKS: tuple[ImageCheck, ...] = ("off", "header", "decode")


class Timing(NamedTuple):
    """One way: its name and how long it took."""

    way: str
    seconds: float


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=2.0, help="gigabytes of pictures; 0 for no speeds")
    parser.add_argument("--entries", type=int, default=558_128, help="entries of the memory measurement; 0 for none")
    parser.add_argument("--folder", type=Path, help="where to work, on the disk that is measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if arguments.size:
            measure_speed(folder, int(arguments.size * 1e9))
        if arguments.entries:
            measure_memory(folder, arguments.entries)


def measure_speed(folder: Path, size: int) -> None:
    """Print the table of speeds."""
    raw = folder / "raw"
    count = make_dataset(raw, size)
    total = (raw / "images.zip").stat().st_size
    print(f"{count} pictures, {total / 1e9:.2f} GB, {available_cores()} cores", flush=True)
    timings = [Timing("copy of the zip", timed(raw, folder / "copy", copy))]
    timings.append(Timing("reference: unzip, ShardWriter", timed(raw, folder / "reference", reference)))
    for processes in dict.fromkeys((1, available_cores())):
        for check in CHECKS:
            way = f"this stage, {processes} process{'es' if processes > 1 else ''}, check_images={check}"
            config = WdsConversionConfig(
                annotations="pretrain.json", prefix="pretrain", samples_per_shard=SHARD_SAMPLES, check_images=check
            )

            def ours(raw: Path, output: Path, config: WdsConversionConfig = config, processes: int = processes) -> None:
                convert(raw, output, config, processes, Progress("benchmark"))

            timings.append(Timing(way, timed(raw, folder / "ours", ours)))
    by_reference, by_copy = timings[1].seconds, timings[0].seconds
    print("\n| way | samples/s | MB/s | against the reference | against the copy |\n|---|---|---|---|---|")
    for way, seconds in timings:
        print(
            f"| {way} | {count / seconds:.0f} | {total / seconds / 1e6:.0f} | {by_reference / seconds:.2f} | "
            f"{by_copy / seconds:.2f} |"
        )


def measure_memory(folder: Path, entries: int) -> None:
    """Print the table of memory: the peak of the process that plans, and of the largest of those that write."""
    raw = folder / "many"
    make_dataset(raw, 0, entries)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        seconds, planning, writing = pool.submit(_memory, raw, folder / "memory").result()
    print("\n| entries | seconds | peak memory, planning process | peak memory, writing process |\n|---|---|---|---|")
    print(f"| {entries} | {seconds:.0f} | {planning / 1e3:.0f} MB | {writing / 1e3:.0f} MB |")


def _memory(raw: Path, output: Path) -> tuple[float, int, int]:
    """Convert and return the seconds and the peak memory, in kilobytes, of this process and of the largest that writes."""
    config = WdsConversionConfig(annotations="pretrain.json", prefix="pretrain", check_images="off")
    watch = _MemoryWatch("benchmark")
    start = time.monotonic()
    convert(raw, output, config, max(2, available_cores()), watch)
    return time.monotonic() - start, peak_memory(os.getpid()), watch.largest


class _MemoryWatch(Progress):
    """Looks at the writing processes whenever a shard is done."""

    largest = 0

    def update(self, done: int, force: bool = False, **fields: float | str) -> None:
        super().update(done, force, **fields)
        peaks = [peak_memory(child.pid) for child in psutil.Process().children()]
        self.largest = max(self.largest, *peaks, 0)


def peak_memory(pid: int) -> int:
    """Return a process's peak memory in kilobytes."""
    # Not getrusage: what it says of a process includes what its parent had when it was started.
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def make_dataset(raw: Path, size: int, entries: int = 0) -> int:
    """Write a raw dataset in LLaVA-Pretrain's layout.

    Args:
        raw: Its folder.
        size: Bytes of photo-like pictures.
        entries: Instead of `size`: the number of tiny pictures.

    Returns:
        Number of pictures.
    """
    raw.mkdir()
    rng = random.Random(0)
    distinct = [jpeg(16, 16, 1, 50)] if entries else [photo(rng) for _ in range(DISTINCT_PICTURES)]
    annotations = []
    written = 0
    with zipfile.ZipFile(raw / "images.zip", "w", zipfile.ZIP_STORED) as archive:
        while (len(annotations) < entries) if entries else (written < size):
            number = len(annotations)
            picture = different(distinct[number % len(distinct)], number)
            name = f"{number // 1000:05d}/{number:09d}.jpg"
            archive.writestr(zipfile.ZipInfo(name), picture)
            written += len(picture)
            caption = " ".join(rng.choices(["a", "photo", "of", "the", "blue", "house", "by", "water"], k=12))
            turns = [
                {"from": "human", "value": "Give a brief description of the image.\n<image>"},
                {"from": "gpt", "value": caption},
            ]
            annotations.append({"id": f"{number:09d}", "image": name, "conversations": turns})
    rng.shuffle(annotations)  # as in LLaVA-Pretrain, the zip has another order
    (raw / "pretrain.json").write_text(json.dumps(annotations))
    descriptor = os.open(raw / "images.zip", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return len(annotations)


def photo(rng: random.Random) -> bytes:
    """Return a JPEG of 35 to 65 KB."""
    width, height = rng.choice([(640, 480), (480, 640), (512, 512)])
    picture = jpeg(width, height, rng.randrange(1 << 30), 85)
    return picture if 35_000 <= len(picture) <= 65_000 else photo(rng)


def jpeg(width: int, height: int, seed: int, quality: int) -> bytes:
    """Return a JPEG with detail at all scales, as photographs have."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 9):
        cells = 2**octave
        noise = rng.normal(size=(min(height, cells) + 1, min(width, cells) + 1, 3)).astype(np.float32)
        layers = [
            np.asarray(Image.fromarray(noise[:, :, colour]).resize((width, height), Image.Resampling.BICUBIC))
            for colour in range(3)
        ]
        image += np.stack(layers, -1) * 0.75**octave
    image = (image - image.min()) / (image.max() - image.min()) * 255
    stream = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def different(picture: bytes, number: int) -> bytes:
    """Return the picture with its number as a JPEG comment."""
    comment = f"{number:012d}".encode()
    return picture[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + picture[2:]


def timed(raw: Path, output: Path, way: Callable[[Path, Path], None]) -> float:
    """Return the seconds that a way takes from a cold zip; its output is removed."""
    descriptor = os.open(raw / "images.zip", os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    start = time.monotonic()
    way(raw, output)
    seconds = time.monotonic() - start
    shutil.rmtree(output)
    print(f"{way.__name__}: {seconds:.1f} s", flush=True)
    return seconds


def copy(raw: Path, output: Path) -> None:
    """Copy the zip."""
    output.mkdir()
    shutil.copyfile(raw / "images.zip", output / "images.zip")
    fsync_below(output)


def reference(raw: Path, output: Path) -> None:
    """Do what Megatron-LM's multimodal example tells its users to do."""
    import webdataset  # it imports torch, and worker processes import this module anew

    pictures = output / "images"
    with zipfile.ZipFile(raw / "images.zip") as archive:
        archive.extractall(pictures)
    shards = output / "wds"
    shards.mkdir()
    entries = json.loads((raw / "pretrain.json").read_text())
    with webdataset.ShardWriter(str(shards / "pretrain-%d.tar"), maxcount=SHARD_SAMPLES, verbose=0) as sink:
        for entry in entries:
            sink.write(
                {
                    "__key__": entry["id"],
                    "jpg": (pictures / entry["image"]).read_bytes(),
                    "json": json.dumps(entry["conversations"]).encode(),
                }
            )
    fsync_below(shards)


def fsync_below(folder: Path) -> None:
    """Wait until everything in a folder is on the disk."""
    for path in folder.iterdir():
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())


if __name__ == "__main__":
    main()
