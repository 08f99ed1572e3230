"""No test picture in training: pictures of the evaluation are found among those that are converted."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.data.decode import BrokenPicture
from components.data.image_roots import ImageIndex, ImageReader
from components.data.known_pictures import KnownPictures, write_known
from components.errors import InputError
from components.progress import Progress
from components.storage.atomic import open_atomic
from components.storage.checksum import sha256_file
from components.wds_conversion.config import EVALUATION_PICTURES, SEEN_FILE, Decontamination
from components.wds_conversion.rows import SeenPicture

_KNOWN_FOLDER = "test_pictures"


def evaluation_pictures(raw: Path) -> list[str]:
    """Return the pictures of all evaluation data of a raw dataset, each once.

    Raises:
        InputError: The list can't be read.
    """
    path = raw / EVALUATION_PICTURES
    if not path.is_file():
        return []
    try:
        return sorted({name for names in json.loads(path.read_bytes()).values() for name in names})
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path} must hold file names with lists of pictures: {error!r}. Run the download again."
        ) from error


def write_test_pictures(raw: Path, folder: Path, threads: int, progress: Progress) -> Path | None:
    """Look at every picture of the evaluation, once for all processes.

    Args:
        raw: The raw dataset folder.
        folder: The stage's folder.
        threads: Pictures that are looked at side by side.
        progress: Told how many were looked at.

    Returns:
        A folder for `KnownPictures`, to be removed by `remove_test_pictures`; None where there is no evaluation data.

    Raises:
        InputError: A picture is missing or broken.
    """
    names = evaluation_pictures(raw)
    if not names:
        return None
    index = ImageIndex(raw)
    places = {name: index.find(name) for name in names}

    def read(name: str) -> bytes:
        place = places[name]
        if place is None:
            raise InputError(f"The evaluation's picture {name} is not in {raw}. Run the download again.")
        with ImageReader(index.sources) as reader:
            return reader.read(place)

    progress.start("looking at the evaluation's pictures", len(names), "pictures")
    try:
        write_known(folder / _KNOWN_FOLDER, names, read, threads, progress.update)
    except BrokenPicture as error:
        raise InputError(f"A picture of the evaluation in {raw} is broken: {error}. Run the download again.") from error
    return folder / _KNOWN_FOLDER


def remove_test_pictures(folder: Path) -> None:
    """Remove what `write_test_pictures` wrote."""
    shutil.rmtree(folder / _KNOWN_FOLDER, ignore_errors=True)


def seen_picture(key: str, fields: Iterable[tuple[str, bytes]], known: KnownPictures, keep: bool) -> SeenPicture | None:
    """Return the evaluation's picture that a sample shows, the first of several; None for none.

    Args:
        key: The sample.
        fields: Extension and content of its pictures.
        known: The evaluation's pictures.
        keep: Whether it stays all the same.
    """
    for _, content in fields:
        try:
            match = known.find(content)
        except BrokenPicture:  # with `check_images` off; training will leave it out
            continue
        if match is not None:
            return SeenPicture(key, match.name, match.likeness, match.difference, keep)
    return None


def write_seen(folder: Path, seen: Iterable[SeenPicture]) -> None:
    """Write what was found, a JSON object per line."""
    with open_atomic(folder / SEEN_FILE, "w") as stream:
        for item in seen:
            stream.write(json.dumps(vars(item), ensure_ascii=False) + "\n")


def decontamination_facts(mode: Decontamination, raw: Path, seen: Iterable[SeenPicture]) -> dict[str, Any]:
    """Return what a conversion found, for its manifest.

    Args:
        mode: What is done with what is found.
        raw: The raw dataset folder.
        seen: What was found.

    Returns:
        `mode`; where it is not "off" also `compared_with` (SHA-256 of the list of the evaluation's pictures), `test_pictures`,
        `found` (samples by likeness), `samples_left_out`, and `test_pictures_seen` (different test pictures that stay in the
        training data).
    """
    if mode == "off":
        return {"mode": mode}
    path = raw / EVALUATION_PICTURES
    every = list(seen)
    likeness: Mapping[str, int] = Counter(item.likeness for item in every)
    return {
        "mode": mode,
        "compared_with": sha256_file(path) if path.is_file() else "",
        "test_pictures": len(evaluation_pictures(raw)),
        "found": {name: likeness.get(name, 0) for name in ("bytes", "pixels", "near")},
        "samples_left_out": sum(not item.trained_on for item in every),
        "test_pictures_seen": len({item.test_picture for item in every if item.trained_on}),
    }
