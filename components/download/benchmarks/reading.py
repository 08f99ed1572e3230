"""From a benchmark's published files to files of ground truth and a zip of pictures."""

import base64
import binascii
import hashlib
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.data.decode import BrokenPicture, check_picture
from components.data.entry import check_text
from components.download import layout
from components.download.benchmarks.benchmark import Benchmark, Row
from components.download.benchmarks.registry import BENCHMARKS
from components.errors import InputError, first_problem
from components.progress import Progress
from components.sources.tables.registry import table_of
from components.sources.tables.table import BadRow
from components.tasks.kinds.questions import QuestionRow

_EXTENSIONS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp", b"GIF8": "gif"}
_MISFITS = (KeyError, IndexError, TypeError, ValueError, AttributeError, SyntaxError)

FindPicture = Callable[[Path, str], str]
"""From a file of annotations and the name that it gives a picture to the picture's name in the raw dataset."""


@dataclass
class GroundTruth:
    """What benchmarks leave.

    Attributes:
        questions: File to its lines.
        captions: File to captions in COCO's layout.
        roots: Where the pictures are that were within their files; see `image_roots` of `dataset.json`.
        made_of: File to what it was made of, for errors.
    """

    questions: dict[str, list[Row]] = field(default_factory=dict)
    captions: dict[str, Row] = field(default_factory=dict)
    roots: list[dict[str, str]] = field(default_factory=list)
    made_of: dict[str, Path] = field(default_factory=dict)

    def add(self, name: str, source: Path, rows: list[Row]) -> None:
        """Add what a benchmark's rows give.

        Raises:
            InputError: There are none, or an id repeats.
        """
        if not rows:
            raise InputError(f"{source}: no row of it belongs to {name}.")
        repeated = [found for found, count in Counter(row["id"] for row in rows).items() if count > 1]
        if repeated:
            raise InputError(f"{source}: several rows of {name} have the id {repeated[0]}.")
        benchmark = BENCHMARKS[name]
        if benchmark.captions:
            self.captions[f"{name}.json"] = _coco(rows)
        else:
            self.questions |= {f"{name}.jsonl": rows, **benchmark.more(rows)}
        for file in (*self.captions, *self.questions):
            self.made_of.setdefault(file, source)


def read_tables(name: str, paths: Sequence[Path], folder: Path, truth: GroundTruth, progress: Progress) -> None:
    """Read a benchmark's tables (parquet, TSV, ...), which have its pictures in them.

    Args:
        name: The benchmark.
        paths: Its files, in a fixed order.
        folder: The raw dataset folder, where the pictures are written as one zip, unchanged and each once.
        truth: Gets its ground truth.
        progress: Told how many files are read.

    Raises:
        InputError: A file has other columns, a row can't be used, or a picture can't be opened.
    """
    benchmark, prefix, target = BENCHMARKS[name], f"benchmarks/{name}/", f"pictures/{name}.zip"
    apart = [path for path in paths if benchmark.shared and benchmark.shared[0].search(path.as_posix())]
    (folder / target).unlink(missing_ok=True)
    rows: list[Row] = []
    progress.start(f"reading {name}", len(paths), "files")
    with layout.open_pictures(folder / target) as archive:
        store = _Store(archive, prefix)
        named = _shared(benchmark, apart, store)
        for done, path in enumerate([path for path in paths if path not in apart], start=1):
            for number, raw in _rows(path):
                rows += _line(benchmark, path, len(rows), number, raw, store, named)
            progress.update(done + len(apart))
    truth.roots.append(layout.image_root(prefix, target))
    truth.add(name, paths[0], rows)


def read_annotations(name: str, paths: Sequence[Path], find: FindPicture, truth: GroundTruth) -> None:
    """Read a benchmark's annotations as its authors publish them, whose pictures lie elsewhere.

    Args:
        name: The benchmark.
        paths: Files of annotations.
        find: Finds a picture.
        truth: Gets its ground truth.

    Raises:
        InputError: A file has another layout, or a picture is missing.
    """
    annotations = BENCHMARKS[name].annotated
    if annotations is None:
        raise InputError(
            f"{paths[0]}: {name} is read from its tables alone: name its dataset in data.evaluation.benchmarks."
        )
    rows = []
    for path in paths:
        try:
            found = annotations.read(path.name, path.read_bytes())
        except _MISFITS as error:
            raise InputError(f"{path} is not in the layout that {name} is published in ({error!r}).") from error
        for row, picture in found:
            line = {**row, ("file_name" if BENCHMARKS[name].captions else "image"): find(path, picture)}
            rows.append(_checked(BENCHMARKS[name], path, line))
    truth.add(name, paths[0], rows)


class _Store:
    """Pictures in a zip, each once, named by their content."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        self._archive, self._prefix = archive, prefix
        self._known: set[str] = set()

    def add(self, content: bytes) -> str:
        """Store a picture; return its name in the raw dataset.

        Raises:
            BrokenPicture: It can't be opened.
        """
        extension = next((name for start, name in _EXTENSIONS.items() if content.startswith(start)), "png")
        name = f"{hashlib.sha256(content).hexdigest()[:24]}.{extension}"
        if name not in self._known:
            check_picture(content, "decode")
            layout.add_picture(self._archive, name, content)
            self._known.add(name)
        return self._prefix + name


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    with open(path, "rb") as stream:
        try:
            for number, raw in enumerate(table_of(path.name).rows(stream, 0, None)):
                if isinstance(raw, BadRow):
                    raise InputError(f"{path}, row {number}: {raw.detail}")
                yield number, raw
        except (OSError, ValueError) as error:
            raise InputError(f"{path} can't be read: {error}. Fetch it again.") from error


def _shared(benchmark: Benchmark, paths: Sequence[Path], store: _Store) -> dict[str, str]:
    """Store pictures that are apart from the rows; return what the rows call them to their names."""
    if benchmark.shared is None:
        return {}
    _, key, column = benchmark.shared
    named = {}
    for path in paths:
        for number, raw in _rows(path):
            contents = _contents(raw.get(column))
            if key not in raw or not contents:
                raise InputError(f"{path}, row {number}: expected the columns {key} and {column}.")
            named[str(raw[key])] = _stored(path, number, contents[0], store)
    return named


def _line(
    benchmark: Benchmark, path: Path, count: int, number: int, raw: Row, store: _Store, named: dict[str, str]
) -> list[Row]:
    """Return the line of a row, or none where the row is no part of the benchmark."""
    try:
        row = benchmark.row(raw, count)
        if row is None:
            return []
        contents = [content for column in benchmark.pictures for content in _contents(raw.get(column))]
    except _MISFITS as error:
        raise InputError(
            f"{path}, row {number} has another layout ({error!r}): expected {benchmark.expected}."
        ) from error
    if "picture" in row:
        wanted = row.pop("picture")
        if wanted not in named:
            raise InputError(f"{path}, row {number}: there is no picture {wanted}.")
        names = [named[wanted]]
    else:
        names = [_stored(path, number, content, store) for content in contents]
    if not names:
        raise InputError(f"{path}, row {number} has no picture: expected {benchmark.expected}.")
    if benchmark.captions:
        return [_checked(benchmark, path, {**row, "file_name": names[0]})]
    several = {"images": names} if len(names) > 1 else {}
    return [_checked(benchmark, path, {**row, "image": names[0], **several})]


def _stored(path: Path, number: int, content: bytes, store: _Store) -> str:
    try:
        return store.add(content)
    except BrokenPicture as error:
        raise InputError(f"{path}, row {number}: its picture can't be opened: {error}") from error


def _contents(value: Any) -> list[bytes]:
    """Return the bytes of what a cell holds: bytes, an object with them, base64, or a list of these."""
    if value is None or value == "":
        return []
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, list):
        return [content for one in value for content in _contents(one)]
    if isinstance(value, dict):
        return _contents(value.get("bytes"))
    try:
        return [base64.b64decode("".join(str(value).split()), validate=True)]
    except binascii.Error as error:
        raise ValueError(f"a picture is neither bytes nor base64: {str(value)[:40]!r}") from error


def _checked(benchmark: Benchmark, path: Path, row: Row) -> Row:
    """Check a line as a task will read it."""
    try:
        check_text(row)
        if benchmark.captions:
            if not all(isinstance(text, str) and text.strip() for text in row["captions"]) or not row["captions"]:
                raise InputError("a picture without captions, or with an empty one")
        else:
            QuestionRow.model_validate(row)
    except (InputError, ValidationError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(f"{path}: the row of {row['id']} can't be used: {reason}") from error
    return row


def _coco(rows: Sequence[Row]) -> Row:
    pairs = [(row["id"], caption) for row in rows for caption in row["captions"]]
    return {
        "images": [
            {"id": row["id"], "file_name": row["file_name"], **({"domain": row["domain"]} if row["domain"] else {})}
            for row in rows
        ],
        "annotations": [{"id": place, "image_id": image, "caption": text} for place, (image, text) in enumerate(pairs)],
    }
