"""Pictures that are known, by what they look like: is this one of them? Written once, read by many processes."""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from components.data.decode import open_picture
from components.data.fingerprint import Look, Pixels, difference, hash_of, hashes_of, sketch_of

Likeness = Literal["bytes", "pixels", "near"]

_NAMES, _HASHES, _SKETCHES = "names.json", "hashes.npy", "sketches.npy"
_MOST_BITS = 10
_MOST_CANDIDATES = 3
_KEPT_LOOKS = 512
"""Of known pictures, of up to 120 KB each."""
_ROUGH_SIDE = 8
_MOST_ROUGH = 28.0


class Match(NamedTuple):
    """A known picture that a picture is.

    Attributes:
        name: Its name.
        likeness: "bytes" (the same file), "pixels" (the same picture in another file), "near" (encoded anew, resized, cropped).
        difference: Mean difference of a value where they fit best, of 255.
    """

    name: str
    likeness: Likeness
    difference: float


class KnownPictures:
    """The known pictures.

    Args:
        folder: What `write_known` wrote.
    """

    def __init__(self, folder: Path) -> None:
        content = json.loads((folder / _NAMES).read_text(encoding="utf-8"))
        self._names: list[str] = content["names"]
        self._bytes = {digest: number for number, digest in enumerate(content["bytes"])}
        self._pixels: list[str] = content["pixels"]
        # One copy in memory, whatever the number of processes.
        self._hashes = np.load(folder / _HASHES, mmap_mode="r")
        self._sketches = np.load(folder / _SKETCHES, mmap_mode="r")
        # Simple drawings are candidates again and again.
        self._look = lru_cache(_KEPT_LOOKS)(lambda number: Look(self._sketches[number]))

    def find(self, content: bytes) -> Match | None:
        """Return the known picture that a picture is, None if it is none.

        Raises:
            BrokenPicture: It can't be decoded.
        """
        same = self._bytes.get(_digest(content))
        if same is not None:
            return Match(self._names[same], "bytes", 0.0)
        sketch = sketch_of(content)
        look = Look(sketch)
        for number in self._candidates(sketch):
            found = difference(self._look(number), look)
            if found.is_small:
                equal = self._pixels[number] == _pixel_digest(content)
                return Match(self._names[number], "pixels" if equal else "near", round(found.mean, 2))
        return None

    def _candidates(self, sketch: Pixels) -> Sequence[int]:
        """Return the numbers of pictures with a similar hash and about the same colours, the most similar first."""
        bits = np.bitwise_count(self._hashes ^ hash_of(sketch)).min(axis=1)
        near = np.flatnonzero(bits <= _MOST_BITS)
        if not len(near):
            return []
        rough = np.abs(_rough(self._sketches[near]) - _rough(sketch[None])).mean(axis=(1, 2, 3))
        kept = near[rough <= _MOST_ROUGH]
        order = np.lexsort((kept, rough[rough <= _MOST_ROUGH]))
        return [int(number) for number in kept[order][:_MOST_CANDIDATES]]


def write_known(
    folder: Path, names: Sequence[str], read: Callable[[str], bytes], threads: int, report: Callable[[int], None]
) -> None:
    """Write what `KnownPictures` reads.

    Args:
        folder: Where to write.
        names: The pictures.
        read: Returns a picture's bytes; called by several threads.
        threads: How many look at pictures side by side.
        report: Told how many were looked at.

    Raises:
        BrokenPicture: One can't be decoded.
    """

    def look(name: str) -> tuple[str, str, npt.NDArray[np.uint64], Pixels]:
        content = read(name)
        sketch = sketch_of(content)
        return _digest(content), _pixel_digest(content), hashes_of(sketch), sketch

    found = []
    with ThreadPoolExecutor(threads) as pool:
        for done, entry in enumerate(pool.map(look, names), start=1):
            found.append(entry)
            report(done)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / _HASHES, np.array([entry[2] for entry in found], dtype=np.uint64))
    np.save(folder / _SKETCHES, np.array([entry[3] for entry in found], dtype=np.uint8))
    content = {
        "names": list(names),
        "bytes": [entry[0] for entry in found],
        "pixels": [entry[1] for entry in found],
    }
    (folder / _NAMES).write_text(json.dumps(content), encoding="utf-8")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _pixel_digest(content: bytes) -> str:
    picture = open_picture(content)
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()


def _rough(sketches: Pixels) -> npt.NDArray[np.float32]:
    """Return mean colours of 8 x 8 areas; [n, 64, 64, 3] to [n, 8, 8, 3]."""
    count, side = len(sketches), sketches.shape[1] // _ROUGH_SIDE
    parts = sketches.reshape(count, _ROUGH_SIDE, side, _ROUGH_SIDE, side, 3)
    return parts.mean(axis=(2, 4), dtype=np.float32)
