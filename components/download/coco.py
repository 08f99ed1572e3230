"""Captioning ground truth in COCO's layout, taken in from whoever wrote it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.download.pictures import Pictures
from components.errors import InputError

_NUMBER = re.compile(r"(\d+)\.[A-Za-z]+$")


def read_truth(path: Path, pictures: Pictures, prefixes: tuple[str, ...]) -> dict[str, Any]:
    """Read captions and give every picture the name that it has in the raw dataset.

    The Karpathy files know pictures by their number alone: 391895 is `COCO_val2014_000000391895.jpg`, the one picture
    whose name ends with it.

    Args:
        path: The JSON file.
        pictures: All pictures.
        prefixes: Prefixes of the roots that hold those of this file.

    Returns:
        {"images": [{"id", "file_name"}], "annotations": [...]}, in the file's order.

    Raises:
        InputError: The file has another layout, or a picture is not there.
    """
    try:
        truth = json.loads(path.read_bytes())
        annotations = truth["annotations"]
        listed = truth.get("images") or [
            {"id": number} for number in _in_order(item["image_id"] for item in annotations)
        ]
        if all("file_name" in item for item in listed):
            images = [{**item, "file_name": find_name(path, item["file_name"], pictures, prefixes)} for item in listed]
        else:
            names = find_numbers(path, [int(item["id"]) for item in listed], pictures, prefixes)
            images = [{"id": number, "file_name": name} for number, name in names.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} has another layout ({error!r}): expected COCO captions "
            '{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}.'
        ) from error
    return {"images": images, "annotations": annotations}


def _in_order(numbers: Any) -> list[int]:
    return list(dict.fromkeys(int(number) for number in numbers))


def find_name(path: Path, name: str, pictures: Pictures, prefixes: tuple[str, ...]) -> str:
    """Return the name that a picture of an annotation file has in the raw dataset.

    Raises:
        InputError: The picture is not there.
    """
    candidates = [f"{prefix}{name}" for prefix in prefixes]
    pictures.settle(candidates[:1])
    for candidate in (*candidates, name):
        if (found := pictures.find(candidate)) is not None:
            return found
    raise InputError(f"{path}: the evaluation picture {name} is not in {pictures.origin((candidates or [name])[0])}")


def find_numbers(path: Path, numbers: Sequence[int], pictures: Pictures, prefixes: tuple[str, ...]) -> dict[int, str]:
    """Return number to the name of the one picture that ends with it, in the given order.

    Args:
        path: The file that has the numbers, for errors.
        numbers: Numbers of pictures.
        pictures: All pictures.
        prefixes: Prefixes of the roots that hold them.

    Raises:
        InputError: There is no such picture, or there are two.
    """
    for prefix in prefixes:  # the folder within the zip is where most of them are
        found = [name for group in _numbered(set(numbers), pictures, prefix).values() for name in group]
        pictures.settle(prefix + name.rpartition("/")[2] for name in found)
    names: dict[int, list[str]] = {}
    for prefix in prefixes:
        for number, group in _numbered(set(numbers), pictures, prefix).items():
            names.setdefault(number, []).extend(group)
    lost = [number for number in numbers if number not in names]
    if lost:
        raise InputError(
            f"{path}: {len(lost)} of {len(numbers)} pictures are not in its `images` (no name there ends with {lost[0]}). Are "
            "these the right pictures?"
        )
    several = [group for group in names.values() if len(group) > 1]
    if several:
        raise InputError(
            f"{path}: {several[0][0]} and {several[0][1]} have the same number. Name their folder in `inside`."
        )
    return {number: names[number][0] for number in numbers}


def _numbered(wanted: set[int], pictures: Pictures, prefix: str) -> dict[int, list[str]]:
    """Return number to the pictures whose name ends with it."""
    names: dict[int, list[str]] = {}
    for name in pictures.names(prefix):
        match = _NUMBER.search(name)
        if match and int(match[1]) in wanted:
            names.setdefault(int(match[1]), []).append(name)
    return names
