"""Writes shards: each is a function of its rows alone, so that any number of processes gives the same bytes."""

import json
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from components.data.asked_questions import BYTES_EACH, SUFFIX, asked_in, packed
from components.data.image_settings import ImageCheck
from components.errors import StageError
from components.storage.atomic import open_atomic, write_json
from components.wds_conversion.config import QUESTIONS_FOLDER
from components.wds_conversion.rows import TEST_PICTURE, LeftOut, Reject, SeenPicture, ShardRows

# Forked from a server that imports webdataset, and with it PyTorch, once for all; not from this process: the tracker's threads may hold
# locks that a fork would copy.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["components.wds_conversion.shard_file", "components.wds_conversion.planning"])


@dataclass(frozen=True)
class ShardTask:
    """A shard to write. It holds where its rows are, not what they are.

    Attributes:
        path: The shard.
        marker: The JSON file that says the shard is complete, written after it.
        dataset: Name of the dataset that the rows belong to, in a mixture; else empty.
        first_row: Number of the first row, of all that are converted.
        rows: The rows.
        check_images: How broken pictures are found.
        known: Folder of the evaluation's pictures as `KnownPictures` reads it; None to look for none.
        keep_seen: Whether samples that show one of them stay.
    """

    path: Path
    marker: Path
    dataset: str
    first_row: int
    rows: ShardRows
    check_images: ImageCheck
    known: Path | None = None
    keep_seen: bool = False


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard's rows; also the content of its marker.

    Attributes:
        dataset: Name of the dataset that the rows belong to, in a mixture; else empty.
        first_row: Number of its first row.
        rows: Number of rows, the rejected ones included.
        samples: Samples written. A shard without any has no file.
        text_only: How many of them have no picture.
        several_pictures: How many of them have more than one.
        formats: Number of pictures by format ("jpg").
        left_out: Number of samples that were left out on purpose, by cause.
        size: Bytes of the shard.
        sha256: Its SHA-256; empty if it has no file.
        rejects: The rows that can't be used.
        seen: The samples that show a picture of the evaluation.
        questions: How many different questions the samples ask.
    """

    dataset: str
    first_row: int
    rows: int
    samples: int
    text_only: int
    several_pictures: int
    formats: dict[str, int]
    left_out: dict[str, int]
    size: int
    sha256: str
    rejects: list[Reject]
    seen: list[SeenPicture]
    questions: int


def write_shards(
    tasks: Sequence[ShardTask], processes: int, on_done: Callable[[ShardTask, ShardResult, bool], None]
) -> None:
    """Write shards in parallel, leaving out those that an earlier run completed.

    Args:
        tasks: The shards.
        processes: Processes to use; 1 works in this one.
        on_done: Called in this process for every shard that is complete, with whether it was before. It may raise to end the
            work; shards that are being written are completed.

    Raises:
        StageError: A process was killed, by the system for want of memory most likely.
    """
    missing = []
    for task in tasks:
        result = read_marker(task.marker, task.path)
        if result is None:
            missing.append(task)
        else:
            on_done(task, result, True)
    with closing(_written(missing, processes)) as written:
        for task, result in written:
            on_done(task, result, False)


def read_marker(marker: Path, shard: Path) -> ShardResult | None:
    """Return what a marker says of a shard that is complete, or None."""
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        rejects = [Reject(**reject) for reject in content["rejects"]]
        seen = [SeenPicture(**item) for item in content["seen"]]
        result = ShardResult(**{**content, "rejects": rejects, "seen": seen})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    complete = _size(shard) == result.size and _size(questions_file(shard)) == BYTES_EACH * result.questions
    return result if complete else None


def questions_file(shard: Path) -> Path:
    """Return where the hashes of a shard's questions are."""
    return shard.parent.parent / QUESTIONS_FOLDER / f"{shard.stem}{SUFFIX}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def write_shard(task: ShardTask) -> ShardResult:
    """Write one shard beside its place, read it back, rename it, then write the hashes of its questions and its marker.

    Raises:
        StageError: It reads back other than it was written.
    """
    # Not for a process that lets others write.
    from components.data.known_pictures import KnownPictures
    from components.wds_conversion.decontamination import seen_picture
    from components.wds_conversion.left_out import LeftOutPictures
    from components.wds_conversion.shard_file import ShardFile

    left_out_pictures = LeftOutPictures(task.path.parent.parent, task.path.stem)
    known = KnownPictures(task.known) if task.known is not None else None
    rejects: list[Reject] = []
    seen: list[SeenPicture] = []
    pictures: Counter[int] = Counter()
    formats: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    questions: set[int] = set()
    with open_atomic(task.path) as stream, closing(task.rows.converted(task.first_row, task.check_images)) as rows:
        shard = ShardFile(stream)
        for row in rows:
            if row.reject is not None:
                rejects.append(row.reject)
            for sample in row.left_out:
                left_out[sample.cause] += 1
                left_out_pictures.note(sample)
            for key, fields in row.samples:
                found = seen_picture(key, fields[:-1], known, task.keep_seen) if known else None
                if found is not None:
                    seen.append(found)
                    sample = LeftOut(TEST_PICTURE, tuple(content for _, content in fields[:-1]))
                    left_out_pictures.note(sample)
                    if not task.keep_seen:
                        left_out[sample.cause] += 1
                        continue
                shard.write(key, fields)
                questions |= asked_in(json.loads(fields[-1][1]))
                pictures[len(fields) - 1] += 1
                formats.update(name.rpartition(".")[2] for name, _ in fields[:-1])
        size, sha256 = shard.finish()
        stream.flush()
        shard.verify(Path(stream.name))
    if not shard.samples:
        task.path.unlink()
    if questions:
        with open_atomic(questions_file(task.path)) as stream:
            stream.write(packed(questions))
    result = ShardResult(
        dataset=task.dataset,
        first_row=task.first_row,
        rows=len(task.rows),
        samples=shard.samples,
        text_only=pictures[0],
        several_pictures=sum(number for count, number in pictures.items() if count > 1),
        formats=dict(sorted(formats.items())),
        left_out=dict(sorted(left_out.items())),
        size=size if shard.samples else 0,
        sha256=sha256 if shard.samples else "",
        rejects=rejects,
        seen=seen,
        questions=len(questions),
    )
    write_json(task.marker, asdict(result))
    return result


def _written(tasks: Sequence[ShardTask], processes: int) -> Generator[tuple[ShardTask, ShardResult]]:
    if processes == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, write_shard(task)
        return
    with ProcessPoolExecutor(min(processes, len(tasks)), mp_context=_PROCESSES, initializer=_end_with_parent) as pool:
        running = {pool.submit(write_shard, task): task for task in tasks}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BrokenProcessPool as error:
            raise StageError(
                "A process that writes shards was killed; when memory ran out, the system does that. "
                "Give the task more memory or fewer CPUs and run again: finished shards are kept."
            ) from error
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
