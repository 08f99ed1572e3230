"""Files of a raw dataset folder: their names, and how they are written so that equal data gives equal bytes."""

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.storage.atomic import open_atomic, write_text

PICTURES = "images.zip"
PRETRAIN = "pretrain.json"
SFT = "sft.json"
CAPTIONING = "captioning.json"
MULTIPLE_CHOICE = "multiple_choice.jsonl"
MMMU = "mmmu.jsonl"
VQAV2 = "vqav2.jsonl"
TEXTVQA = "textvqa.jsonl"
BENCHMARK_CAPTIONS = ("nocaps.json", "flickr30k.json")
"""Files of captions of benchmarks of their own, in COCO's layout."""

DESCRIPTION = "dataset.json"
REJECTS = "rejects.jsonl"
EVALUATION_PICTURES = "evaluation_pictures.json"
"""File of ground truth to the names of its pictures: what training must not see."""

CAPTION_PROMPT = "Give a short and clear explanation of the subsequent image."

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
_UNIX = 3
_READABLE = 0o644 << 16

Entry = dict[str, Any]


def image_root(prefix: str = "", source: str = PICTURES, inside: str = "") -> dict[str, str]:
    """Return an entry of `image_roots` in `dataset.json`.

    A picture belongs to the root with the longest prefix that its name in the annotations begins with, and is stored
    under `inside` and the rest of its name.

    Args:
        prefix: What the names begin with.
        source: Zip or folder, relative to the raw dataset folder.
        inside: What stands there instead of the prefix.
    """
    return {"prefix": prefix, "source": source, "inside": inside}


def entry(identifier: str, image: str, turns: Iterable[tuple[str, str]]) -> Entry:
    """Return an annotation in LLaVA's layout; the picture's marker stands at the front of the first human turn."""
    conversation = []
    for number, (human, answer) in enumerate(turns):
        marker = "<image>\n" if number == 0 else ""
        conversation += [{"from": "human", "value": marker + human}, {"from": "gpt", "value": answer}]
    return {"id": identifier, "image": image, "conversations": conversation}


def captioning_truth(references: Mapping[str, Iterable[str]]) -> dict[str, list[dict[str, Any]]]:
    """Return COCO caption ground truth; pictures are numbered from 0 in the given order.

    Args:
        references: Picture name to its captions.
    """
    images = [{"id": number, "file_name": name} for number, name in enumerate(references)]
    pairs = [(number, text) for number, texts in enumerate(references.values()) for text in texts]
    annotations = [{"id": row, "image_id": number, "caption": text} for row, (number, text) in enumerate(pairs)]
    return {"images": images, "annotations": annotations}


def write_list(path: Path, items: Iterable[Any]) -> int:
    """Write a JSON list, an item per line, and return how many items it has."""
    count = 0
    with open_atomic(path, "w") as stream:
        stream.write("[")
        for count, item in enumerate(items, start=1):
            stream.write(("\n" if count == 1 else ",\n") + _line(item))
        stream.write("\n]\n")
    return count


def write_lines(path: Path, items: Iterable[Any]) -> int:
    """Write JSON lines and return how many."""
    lines = [_line(item) + "\n" for item in items]
    write_text(path, "".join(lines))
    return len(lines)


def _line(item: Any) -> str:
    return json.dumps(item, ensure_ascii=False, allow_nan=False)


@contextmanager
def open_pictures(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a new zip for `add_picture`; it appears at `path` when the block ends without an error."""
    with open_atomic(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        yield archive


def add_picture(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Store a picture uncompressed (JPEG and PNG are compressed already) and without the time of day."""
    member = zipfile.ZipInfo(name, _EPOCH)
    member.create_system = _UNIX
    member.external_attr = _READABLE
    archive.writestr(member, content)
