"""How many test pictures are missed among training pictures, how many others are taken for one, and what looking costs.

    python -m tests.benchmarks.decontamination [FOLDER]

FOLDER holds pictures; without one, the drawings of `scenes://` are looked at alone. From each photograph windows are cut that
don't overlap; a drawing or cut-out is one picture. A fifth of the pictures are test pictures. Each comes back encoded anew,
resized and cropped by a twentieth: what is not found is missed. Of the other pictures, what is found is a false alarm, unless it
is the same picture byte for byte: then it was in the folder twice.
"""

import argparse
import hashlib
import io
import random
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from components.context import RunContext
from components.data.decode import open_picture
from components.data.image_roots import ImageIndex, ImageReader
from components.data.known_pictures import KnownPictures, write_known
from components.download.config import DatasetConfig, ScenesConfig
from components.download.stage import run_download_dataset
from components.errors import InputError

WINDOW = (480, 360)
WINDOWS = 12
LARGE = 1000
LEAST_CONTRAST = 6.0
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--scenes", type=int, default=6000, help="training pictures of scenes://")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        pictures = list(_pictures(arguments.folder))
        random.Random(0).shuffle(pictures)
        cut = len(pictures) // 5
        _measure(f"{arguments.folder.name}", pictures[:cut], pictures[cut:])
    test, training = _scenes(arguments.scenes)
    _measure("scenes", test, training)


def _measure(name: str, test: Sequence[bytes], others: Sequence[bytes]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        names = [str(number) for number in range(len(test))]
        start = time.process_time()
        write_known(Path(temporary), names, lambda number: test[int(number)], 1, lambda done: None)
        build_ms = 1000 * (time.process_time() - start) / len(test)
        known = KnownPictures(Path(temporary))
        missed: Counter[str] = Counter()
        asked: Counter[str] = Counter()
        for number, content in enumerate(test):
            for change, changed in _changed(content, number):
                asked[change] += 1
                missed[change] += known.find(changed) is None
        start = time.process_time()
        found = [match for content in others if (match := known.find(content)) is not None]
        find_ms = 1000 * (time.process_time() - start) / len(others)
    false = [match for match in found if match.likeness != "bytes"]
    print(f"{name}: {len(test)} test pictures, {len(others)} others")
    print("  missed: " + ", ".join(f"{change} {missed[change]} of {asked[change]}" for change in asked))
    print(f"  false alarms: {len(false)} of {len(others)}; the same file: {len(found) - len(false)}")
    print(f"  ms of CPU: {build_ms:.2f} a test picture, {find_ms:.2f} a training picture")


def _changed(content: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    picture, rng = open_picture(content), random.Random(seed)
    width, height = picture.size
    for quality in (50, 75, 95):
        yield f"JPEG {quality}", _jpeg(picture, quality)
    for change, low, high in (("smaller", 0.4, 0.8), ("larger", 1.2, 2.0)):
        factor = rng.uniform(low, high)
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        yield change, _jpeg(picture.resize(size, Image.Resampling.LANCZOS), 85)
    across, down = round(width * 0.05), round(height * 0.05)
    left, top = rng.randint(0, across), rng.randint(0, down)
    yield "cropped anywhere", _jpeg(picture.crop((left, top, left + width - across, top + height - down)), 90)
    yield "cropped at a corner", _jpeg(picture.crop((0, 0, width - across, height - down)), 90)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _pictures(folder: Path) -> Iterator[bytes]:
    """Yield the pictures of a folder, each once; of large ones windows with something on them."""
    seen = set()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        try:
            picture = open_picture(content)
        except InputError:
            continue
        if max(picture.size) < LARGE:
            yield content
            continue
        picture.thumbnail((2400, 2400))
        corners = [
            (x, y)
            for x in range(0, picture.width - WINDOW[0] + 1, WINDOW[0])
            for y in range(0, picture.height - WINDOW[1] + 1, WINDOW[1])
        ]
        random.Random(path.name).shuffle(corners)
        for x, y in corners[:WINDOWS]:
            window = picture.crop((x, y, x + WINDOW[0], y + WINDOW[1]))
            if np.asarray(window).std() >= LEAST_CONTRAST:
                yield _jpeg(window, 95)


def _scenes(count: int) -> tuple[list[bytes], list[bytes]]:
    """Return held-out and training pictures of the demo's drawings."""
    with tempfile.TemporaryDirectory() as temporary:
        context = RunContext(run_id="b", run_name="b", workspace=Path(temporary))
        raw = run_download_dataset(context, DatasetConfig(scenes=ScenesConfig(pictures=count))).folder
        with zipfile.ZipFile(raw / "images.zip") as archive:
            names = archive.namelist()
        index = ImageIndex(raw)
        with ImageReader(index.sources) as reader:
            content = {name: reader.read(place) for name in names if (place := index.find(name)) is not None}
    parts = ("heldout/", "train/")
    test, training = ([value for name, value in content.items() if name.startswith(part)] for part in parts)
    return test, training


if __name__ == "__main__":
    main()
