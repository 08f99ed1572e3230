"""Small pictures of samples that were left out, for people to look at."""

import re
from collections import Counter
from pathlib import Path

from components.data.decode import open_picture
from components.errors import InputError
from components.pages.pictures import thumbnail
from components.storage.atomic import open_atomic
from components.wds_conversion.rows import LeftOut

LEFT_OUT_FOLDER = "left_out"

_EACH = 2
_UNSAFE = re.compile(r"[^A-Za-z0-9]+")


class LeftOutPictures:
    """Keeps the first pictures of each cause; the same rows leave the same files.

    Args:
        folder: The stage's folder.
        shard: Name of the shard that the samples would have been in.
    """

    def __init__(self, folder: Path, shard: str) -> None:
        self._folder, self._shard = folder / LEFT_OUT_FOLDER, shard
        self._kept: Counter[str] = Counter()

    def note(self, sample: LeftOut) -> None:
        """Keep the first picture of a sample, if it has one that opens, and if few of its cause are kept."""
        if not sample.pictures or self._kept[sample.cause] >= _EACH:
            return
        try:
            small = thumbnail(open_picture(sample.pictures[0]))
        except InputError:
            return
        path = self._folder / _UNSAFE.sub("_", sample.cause) / f"{self._shard}-{self._kept[sample.cause]}.jpg"
        with open_atomic(path) as stream:
            stream.write(small)
        self._kept[sample.cause] += 1


def left_out_pictures(folder: Path, cause: str, most: int) -> list[Path]:
    """Return pictures of samples that a conversion left out for a cause.

    Args:
        folder: The conversion's folder.
        cause: The cause, as its facts name it.
        most: Most pictures.
    """
    return sorted((folder / LEFT_OUT_FOLDER / _UNSAFE.sub("_", cause)).glob("*.jpg"))[:most]
