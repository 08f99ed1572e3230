"""Small datasets of every layout and format, and what their samples must be."""

import base64
import csv
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet

from components.sources.sample import CAPTION_PROMPT
from tests.support.data_samples import picture

Expected = list[tuple[list[bytes], list[tuple[str, str]]]]
"""Samples of a row: pictures, and pairs of what the human says (markers left out) and what the model says."""


@dataclass(frozen=True)
class LayoutCase:
    """A layout.

    Attributes:
        layout: Its name.
        row: Number to a row; pictures are `{"bytes", "path"}`, as `datasets` stores them.
        expected: Number to the row's samples.
    """

    layout: str
    row: Callable[[int], dict[str, Any]]
    expected: Callable[[int], Expected]


def stored(number: int, kind: str = "JPEG") -> dict[str, Any]:
    """Return a picture as `datasets` stores it in a row."""
    return {"bytes": picture(number, kind), "path": f"{number}.{kind.lower()}"}


def data_uri(number: int) -> str:
    """Return a picture as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(picture(number)).decode()}"


def _caption(number: int) -> str:
    return f"a red circle number {number}"


def _one(number: int, *pairs: tuple[str, str]) -> Expected:
    return [([picture(number)], list(pairs) or [("What is it?", _caption(number))])]


def _turns(*texts: str, names: tuple[str, str] = ("human", "gpt")) -> list[dict[str, str]]:
    return [{"from": names[number % 2], "value": text} for number, text in enumerate(texts)]


LAYOUTS: dict[str, LayoutCase] = {
    "llava": LayoutCase(
        "llava",
        lambda n: {"id": f"{n}", "image": stored(n), "conversations": _turns("<image>\nWhat is it?", _caption(n))},
        _one,
    ),
    "onevision": LayoutCase(
        "onevision",
        lambda n: {
            "id": f"{n}",
            "image": stored(n),
            "conversations": _turns("<image>\nWhat is it?", _caption(n)),
            "data_source": "vqav2",
        },
        _one,
    ),
    "sharegpt": LayoutCase(
        "sharegpt",
        lambda n: {
            "images": [stored(n)],
            "conversations": _turns("What is it?", _caption(n), "And?", "no more", names=("user", "assistant")),
        },
        lambda n: _one(n, ("What is it?", _caption(n)), ("And?", "no more")),
    ),
    "cauldron": LayoutCase(
        "cauldron",
        lambda n: {
            "images": [stored(n), stored(n + 1000, "PNG")],
            "texts": [{"user": "Which differ?", "assistant": _caption(n), "source": "x"}],
        },
        lambda n: [([picture(n), picture(n + 1000, "PNG")], [("Which differ?", _caption(n))])],
    ),
    "messages": LayoutCase(
        "messages",
        lambda n: {
            "images": [stored(n)],
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}],
                },
                {"role": "assistant", "content": [{"type": "text", "text": _caption(n)}]},
            ],
        },
        _one,
    ),
    "questions": LayoutCase(
        "questions",
        lambda n: {"image": stored(n), "question": "What is it?", "answers": [_caption(n), "nothing"]},
        _one,
    ),
    "captions": LayoutCase(
        "captions",
        lambda n: {"image": stored(n), "caption": [f"{_caption(n)} of {k}" for k in range(5)]},
        lambda n: [([picture(n)], [(CAPTION_PROMPT, f"{_caption(n)} of {k}")]) for k in range(5)],
    ),
}


def rows_of(layout: str, count: int) -> list[dict[str, Any]]:
    """Return rows of a layout."""
    return [LAYOUTS[layout].row(number) for number in range(count)]


def write_parquet(path: Path, rows: Sequence[dict[str, Any]], group_rows: int = 7) -> None:
    """Write rows as parquet with small row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=group_rows)


def write_arrow(path: Path, rows: Sequence[dict[str, Any]], batch_rows: int = 7, as_file: bool = False) -> None:
    """Write rows as an Arrow stream (as `save_to_disk` does) or file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(rows))
    with (ipc.new_file if as_file else ipc.new_stream)(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)


def write_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON lines, the pictures beside them as files that the rows name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(_with_files(row, path.parent)) + "\n" for row in rows))


def write_json_list(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as one JSON list, as LLaVA's annotations are, the pictures beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([_with_files(row, path.parent) for row in rows], indent=1))


def write_csv(path: Path, rows: Sequence[dict[str, Any]], delimiter: str = ",") -> None:
    """Write rows as CSV: lists and objects as JSON, pictures as files beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named = [_with_files(row, path.parent) for row in rows]
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(named[0]), delimiter=delimiter)
        writer.writeheader()
        for row in named:
            writer.writerow({key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()})


def write_tar(path: Path, samples: Sequence[dict[str, bytes]], first: int = 0) -> None:
    """Write samples as a WebDataset shard: extension to content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, fields in enumerate(samples, start=first):
            for field, content in fields.items():
                member = tarfile.TarInfo(f"{number:09d}.{field}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def img2dataset(number: int) -> dict[str, bytes]:
    """Return a sample as img2dataset writes it."""
    described = {"caption": _caption(number), "url": "https://example.org/x.jpg", "width": 40, "height": 32}
    return {
        "jpg": picture(number),
        "txt": _caption(number).encode(),
        "json": json.dumps(described).encode(),
    }


def _with_files(value: Any, folder: Path) -> Any:
    if isinstance(value, dict) and "bytes" in value:
        (folder / value["path"]).write_bytes(value["bytes"])
        return value["path"]
    if isinstance(value, dict):
        return {key: _with_files(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_files(item, folder) for item in value]
    return value
