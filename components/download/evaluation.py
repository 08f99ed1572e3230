"""The evaluation data of a dataset: taken over, and checked now, so that nothing of it is found out after the training."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.cores import available_cores
from components.data.entry import check_text
from components.download import layout
from components.download.benchmarks.reading import GroundTruth, read_annotations, read_tables
from components.download.coco import find_name, read_truth
from components.download.mmmu import PREFIX as MMMU_PREFIX
from components.download.mmmu import TARGET as MMMU_TARGET
from components.download.mmmu import write_mmmu
from components.download.parts import DatasetParts
from components.download.pictures import Pictures
from components.download.vqa import read_textvqa, read_vqav2
from components.errors import InputError
from components.progress import Progress
from components.storage.atomic import write_json
from components.tasks.loading import load_samples, load_task, task_names

Row = dict[str, Any]

_SHOWN_BROKEN = 3


@dataclass(frozen=True)
class Evaluation:
    """Evaluation data that comes with the dataset.

    Attributes:
        truth: Captions; None where there are none.
        questions: Multiple-choice questions; None where there are none.
        tasks: File to questions of other tasks.
        captions: File to captions of other tasks.
        pictures: Pictures of all of them.
        own: Those of them that are in the raw dataset folder already.
        roots: Where these are; see `image_roots` of `dataset.json`.
        made_of: File to what it was made of, for errors.
    """

    truth: Row | None
    questions: list[Row] | None
    tasks: dict[str, list[Row]]
    captions: dict[str, Row]
    pictures: set[str]
    own: set[str]
    roots: list[dict[str, str]]
    made_of: dict[str, Path]


def read_evaluation(parts: DatasetParts, pictures: Pictures, folder: Path, progress: Progress) -> Evaluation:
    """Take over the evaluation data of a dataset.

    Args:
        parts: The dataset's parts.
        pictures: Its pictures.
        folder: The raw dataset folder, for pictures that come within questions.
        progress: Told how many pictures are opened.

    Raises:
        InputError: A file has another layout, or a picture is missing or broken.
    """
    truth = None
    questions: list[Row] | None = None
    tasks = {file: _read_questions(path, pictures) for file, path in parts.more.items()}
    if parts.captioning is not None:
        truth = read_truth(parts.captioning, pictures, parts.captioning_prefixes)
        _check_texts(parts.captioning, truth["annotations"])
    if parts.multiple_choice is not None:
        questions = _read_questions(parts.multiple_choice, pictures)
    if parts.vqav2 is not None:
        tasks[layout.VQAV2] = read_vqav2(*parts.vqav2, pictures, parts.vqav2_prefixes)
        _check_texts(parts.vqav2[0], tasks[layout.VQAV2])
    if parts.textvqa is not None:
        tasks[layout.TEXTVQA] = read_textvqa(parts.textvqa, pictures, parts.textvqa_prefixes, parts.textvqa_words)
        _check_texts(parts.textvqa, tasks[layout.TEXTVQA])
    if parts.mmmu:
        tasks[layout.MMMU] = write_mmmu(parts.mmmu, folder, progress)
    given = GroundTruth()
    for name, paths in parts.benchmarks.items():
        read_tables(name, paths, folder, given, progress)
    own = pictures_of(row for rows in given.questions.values() for row in rows) | _pictured(given.captions.values())
    if parts.mmmu:
        given.roots.append(layout.image_root(MMMU_PREFIX, MMMU_TARGET))
        own |= pictures_of(tasks[layout.MMMU])
    for name, paths in parts.benchmark_files.items():
        find = partial(find_name, pictures=pictures, prefixes=parts.benchmark_prefixes[name])
        read_annotations(name, paths, find, given)
    captions = {file: read_truth(path, pictures, ()) for file, path in parts.captions.items()} | given.captions
    tasks |= given.questions
    every = [*(questions or []), *(row for rows in tasks.values() for row in rows)]
    named = _pictured([*captions.values(), *([truth] if truth else [])]) | pictures_of(every)
    _check_pictures(sorted(named - own), pictures, progress)
    made_of = parts.evaluation_files | given.made_of
    return Evaluation(truth, questions, tasks, captions, named, own, given.roots, made_of)


def write_evaluation(
    folder: Path,
    truth: Row,
    questions: Sequence[Row],
    tasks: Mapping[str, Sequence[Row]],
    captions: Mapping[str, Row],
    made_of: Mapping[str, Path],
) -> dict[str, int]:
    """Write the files of ground truth and read them as the tasks that use them will.

    Args:
        folder: The raw dataset folder.
        truth: Captions in COCO's layout.
        questions: Multiple-choice questions.
        tasks: File to questions of other tasks.
        captions: File to captions of other tasks, in COCO's layout.
        made_of: File to what it was made of, for errors.

    Returns:
        Facts: the number of questions of every file.

    Raises:
        InputError: A task can't use its file: a question lacks its options or its answer, a picture its captions, an id
            repeats.
    """
    write_json(folder / layout.CAPTIONING, truth)
    facts = {"held_out_questions": layout.write_lines(folder / layout.MULTIPLE_CHOICE, questions)}
    for file, rows in tasks.items():
        facts[f"{file.removesuffix('.jsonl')}_questions"] = layout.write_lines(folder / file, rows)
    for file, other in captions.items():
        write_json(folder / file, other)
        facts[f"{file.removesuffix('.json')}_pictures"] = len(other["images"])
    every = {layout.MULTIPLE_CHOICE: questions, **tasks}
    shown = {layout.CAPTIONING: truth, **captions}
    pictures = {file: sorted(pictures_of(rows)) for file, rows in every.items()}
    pictures |= {file: sorted(_pictured([one])) for file, one in shown.items()}
    write_json(folder / layout.EVALUATION_PICTURES, pictures)
    for name in task_names():
        task = load_task(name)
        if task.dataset not in (*shown, *every):
            continue
        try:
            load_samples(folder, task)
        except InputError as error:
            written = folder / task.dataset
            source = made_of.get(task.dataset, written)
            raise InputError(
                f"The evaluation {name} could not use its data: {str(error).replace(str(written), str(source))}"
            ) from error
    return facts


def pictures_of(rows: Iterable[Row]) -> set[str]:
    """Return the pictures that questions are about."""
    return {name for row in rows for name in (row["image"], *row.get("images", ()))}


def _pictured(truths: Iterable[Row]) -> set[str]:
    """Return the pictures of captions in COCO's layout."""
    return {item["file_name"] for truth in truths for item in truth["images"]}


def given_references(truth: Row) -> dict[str, list[str]]:
    """Return the captions of every picture of given ground truth."""
    names = {item["id"]: item["file_name"] for item in truth["images"]}
    references: dict[str, list[str]] = {name: [] for name in names.values()}
    for row in truth["annotations"]:
        if row["image_id"] in names:
            references[names[row["image_id"]]].append(row["caption"])
    return {name: texts for name, texts in references.items() if texts}


def _read_questions(path: Path, pictures: Pictures) -> list[Row]:
    rows = [
        row for line in enumerate(path.read_bytes().splitlines(), start=1) if (row := _row(path, *line)) is not None
    ]
    try:
        repeated = [name for name, count in Counter(row["id"] for row in rows).items() if count > 1]
        if repeated:
            raise InputError(f"{path} has several lines with the same id: {repeated[0]}. Ids must be unique.")
        pictures.settle(row["image"] for row in rows)
        for row in rows:
            row["image"] = _evaluation_picture(path, row["image"], pictures)
            if "images" in row:
                row["images"] = [_evaluation_picture(path, name, pictures) for name in row["images"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{path} has another layout ({error!r}): expected lines {{"id", "image", "question", ...}}, as '
            '"options" and "answer", or "answers".'
        ) from error
    _check_texts(path, rows)
    return rows


def _row(path: Path, number: int, line: bytes) -> Row | None:
    try:
        row: Row | None = json.loads(line) if line.strip() else None
    except ValueError as error:
        raise InputError(f"{path}, line {number} is not JSON ({error}).") from error
    return row


def _evaluation_picture(path: Path, name: str, pictures: Pictures) -> str:
    found = pictures.find(name)
    if found is None:
        raise InputError(f"{path}: the evaluation picture {name} is not in {pictures.origin(name)}")
    return found


def _check_texts(path: Path, rows: Iterable[Any]) -> None:
    for number, row in enumerate(rows):
        try:
            check_text(row)
        except InputError as error:
            name = row.get("id", number) if isinstance(row, dict) else number
            raise InputError(f"{path}: entry {name}: {error}. Mend or remove it.") from error


def _check_pictures(names: Sequence[str], pictures: Pictures, progress: Progress) -> None:
    """Decode every picture: one that can't be would end the run after all training."""
    if not names:
        return
    progress.start("opening the evaluation's pictures", len(names), "pictures")
    broken = []
    with ThreadPoolExecutor(available_cores()) as pool:  # decoding leaves Python's lock alone
        for done, reason in enumerate(pool.map(pictures.broken, names), start=1):
            if reason:
                broken.append(reason)
            progress.update(done, broken=len(broken))
    if broken:
        shown = "; ".join(broken[:_SHOWN_BROKEN])
        raise InputError(
            f"{len(broken)} of {len(names)} evaluation pictures can't be opened: {shown}. Mend them, or remove their questions and "
            "captions."
        )
