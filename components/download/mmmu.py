"""MMMU's validation questions, from the benchmark's own parquet files.

Pictures go into one zip, unchanged; a question with several lists all of them. The marks `<image 1>` stay in the texts: a task
says whether pictures stand there or in front.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.download import layout
from components.errors import InputError
from components.progress import Progress
from components.tasks.picture_marks import marked_pictures, with_known_marks
from components.tasks.template import LETTERS

PREFIX = "mmmu/"
TARGET = "pictures/mmmu.zip"

_SUBJECT = re.compile(r"(?:validation|dev|test)_(.+)_\d+")
_MOST_PICTURES = 7
_EXTENSIONS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp", b"GIF8": "gif"}

Row = dict[str, Any]


def write_mmmu(paths: Sequence[Path], folder: Path, progress: Progress) -> list[Row]:
    """Write the pictures of MMMU's questions into the raw dataset folder.

    Args:
        paths: Parquet files, in a fixed order.
        folder: The raw dataset folder.
        progress: Told how many files are read.

    Returns:
        Lines of `mmmu.jsonl` in the files' order: with `options` and the `answer`'s letter, or with accepted `answers`.

    Raises:
        InputError: A file can't be read, or has another layout.
    """
    rows: list[Row] = []
    target = folder / TARGET
    target.unlink(missing_ok=True)
    progress.start("reading MMMU", len(paths), "files")
    with layout.open_pictures(target) as archive:
        for done, path in enumerate(paths, start=1):
            for raw in _rows(path):
                names = []
                for name, content in _pictures(path, raw):
                    _check_opens(path, name, content)
                    layout.add_picture(archive, name, content)
                    names.append(PREFIX + name)
                rows.append(_question(path, raw, names))
            progress.update(done)
    return rows


def _rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=16):  # pictures are in the rows
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable parquet file: {error}. Fetch it again.") from error


def _pictures(path: Path, raw: Row) -> Iterator[tuple[str, bytes]]:
    for number in range(1, _MOST_PICTURES + 1):
        picture = raw.get(f"image_{number}")
        content = picture.get("bytes") if isinstance(picture, dict) else None
        if content:
            extension = next((name for start, name in _EXTENSIONS.items() if content.startswith(start)), "png")
            yield f"{raw.get('id')}_{number}.{extension}", content


def _check_opens(path: Path, name: str, content: bytes) -> None:
    from components.data.decode import BrokenPicture, check_picture  # settings are read where nothing is decoded

    try:
        check_picture(content, "decode")
    except BrokenPicture as error:
        raise InputError(f"{path}: the picture {name} can't be opened: {error}. Fetch the file again.") from error


def _question(path: Path, raw: Row, names: list[str]) -> Row:
    try:
        identifier, subject = raw["id"], _SUBJECT.fullmatch(raw["id"])
        texts = [str(text) for text in (raw["question"], *ast.literal_eval(raw["options"]))]
        if any(number > _MOST_PICTURES for text in texts for number in marked_pictures(text)):
            # validation_Math_7 has marks up to <image 30>, of pictures that the data can't hold.
            texts = [with_known_marks(text, len(names)) for text in texts]
        question, *options = texts
        row: Row = {"id": identifier, "image": names[0], "question": question}
        category = subject[1] if subject else ""
        several = {"images": names} if len(names) > 1 else {}
        if raw["question_type"] == "open":
            answer = raw["answer"]
            answers = ast.literal_eval(answer) if answer.startswith("[") else [answer]
            return {**row, "answers": [str(text) for text in answers], "category": category, **several}
        if not 2 <= len(options) <= len(LETTERS) or raw["answer"] not in LETTERS[: len(options)]:
            raise ValueError(f"the answer is {raw['answer']!r} of {len(options)} options")
        return {**row, "options": options, "answer": raw["answer"], "category": category, **several}
    except (KeyError, IndexError, TypeError, ValueError, SyntaxError, AttributeError) as error:
        raise InputError(
            f"{path}: the row {raw.get('id')!r} is not in MMMU's layout ({error!r}): expected id, question, options, answer, "
            "question_type, image_1 ..."
        ) from error
