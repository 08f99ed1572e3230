"""Writes shards: each is a function of its rows alone, so that any number of processes gives the same bytes."""

import io
import json
import multiprocessing
import os
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image

from components.data.conversation import conversation_pairs
from components.errors import InputError
from components.storage.atomic import open_atomic, write_json
from components.wds_conversion.pictures import ZIP_NAME, ZipMember, read_member

_BLOCK = 512
_SIGNATURES = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"))
_WEBP = (b"RIFF", b"WEBP")


@dataclass(frozen=True)
class Row:
    """One entry on its way into a shard.

    Attributes:
        number: Its row in the annotation file.
        key: Its key in the shard.
        entry: The entry as it was read.
        picture: Where its picture lies; None if it names none or if the one it names was not found.
    """

    number: int
    key: str
    entry: Any
    picture: ZipMember | Path | None


@dataclass(frozen=True)
class ShardTask:
    """A shard to write.

    Attributes:
        path: The shard.
        marker: The JSON file that says the shard is complete, written after it.
        archive: The zip of the pictures; None where they are files.
        rows: What belongs into it.
        check_images: Whether every picture is decoded.
    """

    path: Path
    marker: Path
    archive: Path | None
    rows: Sequence[Row]
    check_images: bool


@dataclass(frozen=True)
class Reject:
    """An entry that was left out: its row and id, the picture it names, a short cause to count by, and the details."""

    row: int
    id: str
    image: str
    cause: str
    detail: str


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard's rows; also the content of its marker.

    Attributes:
        first_row: Row number of its first entry.
        rows: Number of entries, the rejected ones included.
        samples: Samples written. A shard without any has no file.
        text_only: How many of them have no picture.
        formats: Number of pictures by field name ("jpg").
        size: Bytes of the shard.
        rejects: The entries left out.
    """

    first_row: int
    rows: int
    samples: int
    text_only: int
    formats: dict[str, int]
    size: int
    rejects: list[Reject]


class RejectedEntry(Exception):
    """An entry that can't become a sample: cause and detail."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


def write_shards(
    tasks: Sequence[ShardTask], processes: int, on_done: Callable[[ShardResult], None]
) -> list[ShardResult]:
    """Write shards in parallel, leaving out those that an earlier run completed.

    Args:
        tasks: The shards.
        processes: Processes to use; 1 works in this one.
        on_done: Called in this process for every shard as it is completed.

    Returns:
        One result per task, in the order of the tasks.
    """
    results = {task.path: result for task in tasks if (result := completed(task)) is not None}
    for result in results.values():
        on_done(result)
    missing = [task for task in tasks if task.path not in results]
    for task, result in _written(missing, processes):
        results[task.path] = result
        on_done(result)
    return [results[task.path] for task in tasks]


def completed(task: ShardTask) -> ShardResult | None:
    """Return the result of a shard that is complete, or None."""
    try:
        content = json.loads(task.marker.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    result = ShardResult(**{**content, "rejects": [Reject(**reject) for reject in content["rejects"]]})
    size = task.path.stat().st_size if task.path.is_file() else 0
    return result if size == result.size else None


def write_shard(task: ShardTask) -> ShardResult:
    """Write one shard beside its place, rename it, then write its marker."""
    rejects: list[Reject] = []
    formats: dict[str, int] = {}
    samples = size = 0
    descriptor = os.open(task.archive, os.O_RDONLY) if task.archive else -1
    try:
        with open_atomic(task.path) as stream:
            for row in task.rows:
                try:
                    fields = _fields(row, descriptor, task.check_images)
                except RejectedEntry as error:
                    rejects.append(_reject(row, error))
                    continue
                samples += 1
                for extension, content in fields:
                    size += _write_member(stream, f"{row.key}.{extension}", content)
                if len(fields) == 2:  # a picture and its conversation
                    formats[fields[0][0]] = formats.get(fields[0][0], 0) + 1
            size += stream.write(bytes(2 * _BLOCK))
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    if not samples:
        task.path.unlink()
        size = 0
    text_only = samples - sum(formats.values())
    result = ShardResult(task.rows[0].number, len(task.rows), samples, text_only, formats, size, rejects)
    write_json(task.marker, asdict(result))
    return result


def _written(tasks: Sequence[ShardTask], processes: int) -> Iterator[tuple[ShardTask, ShardResult]]:
    if processes == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, write_shard(task)
        return
    # Spawned, not forked: the tracker's threads may hold locks that a fork would copy.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(tasks)), mp_context=context, initializer=_end_with_parent) as pool:
        running = {pool.submit(write_shard, task): task for task in tasks}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Let a worker end when the process that started it is killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def _fields(row: Row, descriptor: int, check_images: bool) -> list[tuple[str, bytes]]:
    """Return the fields of a sample: extension and content, the picture first."""
    entry = row.entry
    if not isinstance(entry, dict):
        raise RejectedEntry("bad_entry", f"an entry must be a JSON object, this is a {type(entry).__name__}")
    image = entry.get("image")
    if image is not None and not isinstance(image, str):
        raise RejectedEntry("bad_entry", "`image` must be one path; several pictures per entry are not supported")
    conversation = entry.get("conversations")
    try:
        conversation_pairs(conversation, has_image=bool(image))  # type: ignore[arg-type]
    except InputError as error:
        raise RejectedEntry("bad_conversation", str(error)) from error
    text = json.dumps(conversation, ensure_ascii=False, separators=(",", ":")).encode()
    if not image:
        return [("json", text)]
    content = _picture_bytes(row, image, descriptor)
    extension = _extension(content)
    if check_images:
        _check_decodes(content)
    return [(extension, content), ("json", text)]


def _picture_bytes(row: Row, image: str, descriptor: int) -> bytes:
    if row.picture is None:
        raise RejectedEntry("missing_picture", f"there is no picture {image}")
    try:
        return row.picture.read_bytes() if isinstance(row.picture, Path) else read_member(descriptor, row.picture)
    except ValueError as error:
        raise RejectedEntry("broken_picture", f"{image} in {ZIP_NAME}: {error}") from error


def _extension(content: bytes) -> str:
    for signature, extension in _SIGNATURES:
        if content.startswith(signature):
            return extension
    if content[:4] == _WEBP[0] and content[8:12] == _WEBP[1]:
        return "webp"
    raise RejectedEntry("unknown_format", "the picture is neither JPEG nor PNG nor WebP; convert it")


def _check_decodes(content: bytes) -> None:
    try:
        with Image.open(io.BytesIO(content)) as image:
            # For JPEG: an eighth of the resolution. It reads all the data, and so finds truncation, at a fraction of the work.
            image.draft("RGB", (1, 1))
            image.load()
    except Exception as error:  # PIL raises many kinds, SyntaxError among them
        raise RejectedEntry("broken_picture", f"it does not decode: {error}") from error


def _write_member(stream: IO[bytes], name: str, content: bytes) -> int:
    # The remaining header fields have fixed defaults: mode 0644, owner 0, modification time 0.
    header = tarfile.TarInfo(name)
    header.size = len(content)
    written = stream.write(header.tobuf(tarfile.USTAR_FORMAT)) + stream.write(content)
    return written + stream.write(bytes(-len(content) % _BLOCK))


def _reject(row: Row, error: RejectedEntry) -> Reject:
    entry = row.entry if isinstance(row.entry, dict) else {}
    return Reject(row.number, str(entry.get("id", "")), str(entry.get("image", "")), error.cause, str(error))
