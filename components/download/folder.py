"""Source `file://`: takes in a folder in LLaVA-Pretrain's layout and holds some of its pictures out for evaluation."""

import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from components.data.conversation import conversation_pairs
from components.download import layout
from components.download.config import FolderConfig
from components.download.dataset import question_row
from components.download.multiple_choice import AnswerForm, MultipleChoice, ask, balanced_letters
from components.errors import InputError
from components.stage.manifest import MANIFEST_NAME
from components.stage.progress import Progress
from components.storage.atomic import write_json

QUESTION = "Which caption describes the picture?"
OPTIONS = 4

_OWN_FILES = {layout.SFT, layout.CAPTIONING, layout.DESCRIPTION, MANIFEST_NAME}
_SHOWN_REJECTS = 3


@dataclass(frozen=True)
class Captioned:
    """A usable captioning entry: place in its list, id, the picture's name among the pictures, human prompt, caption."""

    row: int
    identifier: str
    image: str
    prompt: str
    caption: str


@dataclass(frozen=True)
class Reject:
    """An entry that can't be used: in which file, at which place of its list (from 0), its id, and why."""

    file: str
    row: int
    identifier: str
    reason: str


class Pictures:
    """The pictures of a source folder: `images.zip`, else `images/`, else paths relative to the folder itself."""

    def __init__(self, folder: Path) -> None:
        self.zip_path = folder / layout.PICTURES
        self.archive: zipfile.ZipFile | None = None
        self._names: set[str] = set()
        self._roots = [root for root in (folder / "images", folder) if root.is_dir()]
        if self.zip_path.is_file():
            self.archive, self._names = _open_zip(self.zip_path)

    @property
    def origin(self) -> Path:
        """Where pictures are looked for, for errors."""
        return self.zip_path if self.archive else self._roots[0]

    def find(self, image: str) -> str | None:
        """Return the name under which an entry's picture is stored, or None.

        The `image` of an entry and the paths in the zip may differ in a leading `images/`.
        """
        names = (image, f"images/{image}", image.removeprefix("images/"))
        if self.archive:
            return next((name for name in names if name in self._names), None)
        if not image or PurePosixPath(image).is_absolute() or ".." in PurePosixPath(image).parts:
            return None
        return image if self._path(image) else None

    def read(self, name: str) -> bytes:
        """Return a picture's bytes; in a zip its checksum is verified."""
        if self.archive:
            return self.archive.read(name)
        path = self._path(name)
        if path is None:
            raise FileNotFoundError(name)
        return path.read_bytes()

    def broken(self, name: str) -> str:
        """Return why a picture can't be read or decoded; empty when it can."""
        try:
            with Image.open(io.BytesIO(self.read(name))) as picture:
                picture.load()
        except Exception as error:  # decoders raise whatever they like on broken input
            return f"picture {name} in {self.origin} is broken: {error}"
        return ""

    def close(self) -> None:
        """Close the zip."""
        if self.archive:
            self.archive.close()

    def _path(self, name: str) -> Path | None:
        return next((root / name for root in self._roots if os.path.isfile(root / name)), None)


def _open_zip(path: Path) -> tuple[zipfile.ZipFile, set[str]]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise InputError(
            f"{path} is not a readable zip: {error}. It may be cut off: compare its size with the source's, or download it again."
        ) from error
    names: set[str] = set()
    for member in archive.infolist():
        if member.is_dir():
            continue
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if ".." in parts or (parts and (parts[0] == "/" or ":" in parts[0])):
            raise InputError(
                f"{path} holds {member.filename!r}, which would lie outside its folder. Build the zip again."
            )
        if member.flag_bits & 0x1:
            raise InputError(f"{path} is encrypted ({member.filename}). Unpack it and zip it without a password.")
        names.add(member.filename)
    return archive, names


def write_folder(
    source: Path, config: FolderConfig, seed: int, name: str, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write a raw dataset folder from a user's folder.

    Args:
        source: The user's folder: one annotations file, pictures, optionally `sft.json`, optionally evaluation data
            (`captioning.json` and `multiple_choice.jsonl`) of its own.
        config: How much is held out, how much may be unusable.
        seed: Seed of what is held out and of derived questions.
        name: The dataset's name.
        folder: Where to write; existing files are replaced.
        progress: Told how far it is.

    Returns:
        Facts: counts, and what is held out.

    Raises:
        InputError: The folder has another layout, a file is broken, or too many entries are unusable.
    """
    annotations = _find_annotations(source)
    own_evaluation = _own_evaluation(source)
    pictures = Pictures(source)
    try:
        rejects: list[Reject] = []
        usable, total = _read_captioned(annotations, pictures, rejects, progress)
        _check_rejects(annotations, rejects, total, config.max_reject_share)
        if own_evaluation:
            held_out = _copy_evaluation(source, folder, pictures)
            rule = f"the pictures of {layout.CAPTIONING} and {layout.MULTIPLE_CHOICE}"
        else:
            held_out, broken = _choose_held_out(annotations, usable, pictures, config.held_out_pictures, seed)
            rejects += [
                Reject(annotations.name, item.row, item.identifier, broken[item.image])
                for item in usable
                if item.image in broken
            ]
            usable = [item for item in usable if item.image not in broken]
            _check_rejects(annotations, rejects, total, config.max_reject_share)
            _write_evaluation(usable, held_out, seed, folder)
            rule = f"{len(held_out)} pictures chosen at random (seed {seed}); no training entry uses them"
        training = [item for item in usable if item.image not in held_out]
        if not training:
            raise InputError(
                f"{annotations}: no entry is left for training after holding out {len(held_out)} pictures."
            )
        facts = {"pretrain_entries": layout.write_list(folder / layout.PRETRAIN, map(_captioning_entry, training))}
        used = {item.image for item in training} | held_out
        entries: Iterable[layout.Entry]
        if (source / layout.SFT).is_file():
            entries = given = _given_conversations(
                source / layout.SFT, pictures, held_out, rejects, config.max_reject_share
            )
            used.update(item["image"] for item in given if "image" in item)
        else:
            entries = _derived_conversations(training, seed, config.answer_form)
        facts["sft_entries"] = layout.write_list(folder / layout.SFT, entries)
        _provide_pictures(pictures, sorted(used), folder / layout.PICTURES, progress)
    finally:
        pictures.close()
    layout.write_lines(folder / layout.REJECTS, (vars(reject) for reject in rejects))
    facts |= {
        "held_out_pictures": len(held_out),
        "rejected_entries": len(rejects),
        "pictures": len(used),
        "picture_bytes": (folder / layout.PICTURES).stat().st_size,
    }
    description = {
        "name": name,
        "source": source.as_uri(),
        "annotations": annotations.name,
        "seed": seed,
        "licence": config.licence,
        "settings": config.model_dump(),
        "counts": facts,
        "held_out": rule,
        "sft": "given" if (source / layout.SFT).is_file() else "derived from the training captions",
    }
    write_json(folder / layout.DESCRIPTION, description)
    return {**facts, "held_out": rule}


def _find_annotations(source: Path) -> Path:
    found = sorted(path for path in source.glob("*.json") if path.is_file() and path.name not in _OWN_FILES)
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(
            f"{source} has no annotations: expected one JSON file with a list of entries, such as blip_laion_cc_sbu_558k.json."
        )
    names = ", ".join(path.name for path in found)
    raise InputError(
        f"{source} has several JSON files ({names}): leave only the captions there (and {layout.SFT} if you have it)."
    )


def _own_evaluation(source: Path) -> bool:
    there = [name for name in (layout.CAPTIONING, layout.MULTIPLE_CHOICE) if (source / name).is_file()]
    if len(there) == 1:
        raise InputError(
            f"{source} has {there[0]} alone: give both {layout.CAPTIONING} and {layout.MULTIPLE_CHOICE}, or neither."
        )
    return bool(there)


def _read_list(path: Path) -> list[Any]:
    try:
        entries = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}. If it was cut off, download it again.") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f'{path} must hold a list of entries like {{"id", "image", "conversations"}}.')
    return entries


def _read_captioned(
    annotations: Path, pictures: Pictures, rejects: list[Reject], progress: Progress
) -> tuple[list[Captioned], int]:
    entries = _read_list(annotations)
    progress.start("checking entries", len(entries), "entries")
    usable: list[Captioned] = []
    for row, entry in enumerate(entries):
        identifier = _identifier(entry, row)
        try:
            image = _picture_of(entry, pictures)
            pairs = conversation_pairs(entry.get("conversations"), has_image=True)
            if len(pairs) != 1:
                raise InputError(f"expected one human turn and one caption, found {len(pairs)} pairs")
        except InputError as error:
            rejects.append(Reject(annotations.name, row, identifier, str(error)))
        else:
            usable.append(Captioned(row, identifier, image, *pairs[0]))
        if row % 1000 == 0:
            progress.update(row)
    progress.update(len(entries))
    return usable, len(entries)


def _identifier(entry: Any, row: int) -> str:
    identifier = entry.get("id") if isinstance(entry, dict) else None
    return str(identifier) if isinstance(identifier, str | int) and str(identifier) else f"row-{row}"


def _picture_of(entry: Any, pictures: Pictures) -> str:
    if not isinstance(entry, dict):
        raise InputError(f"an entry must be a JSON object, this is a {type(entry).__name__}")
    image = entry.get("image")
    if not isinstance(image, str) or not image:
        raise InputError("the entry names no picture (`image`)")
    name = pictures.find(image)
    if name is None:
        raise InputError(f"picture {image} is not in {pictures.origin}")
    return name


def _check_rejects(path: Path, rejects: list[Reject], total: int, limit: float) -> None:
    count = sum(reject.file == path.name for reject in rejects)
    if count <= limit * total and count < total:
        return
    shown = [reject for reject in rejects if reject.file == path.name][:_SHOWN_REJECTS]
    examples = "; ".join(f"entry {reject.row} ({reject.identifier}): {reject.reason}" for reject in shown)
    raise InputError(
        f"{path}: {count} of {total} entries can't be used, more than max_reject_share {limit} allows. First ones: {examples}."
    )


def _choose_held_out(
    annotations: Path, usable: list[Captioned], pictures: Pictures, count: int, seed: int
) -> tuple[set[str], dict[str, str]]:
    """Choose pictures at random; another takes the place of one that can't be decoded.

    Returns:
        The held-out pictures, and the broken ones that were met with the reason of each.
    """
    candidates = sorted({item.image for item in usable})
    if 2 * count > len(candidates):
        raise InputError(
            f"{annotations} has {len(candidates)} usable pictures; folder.held_out_pictures is {count}, more than half of "
            "them. Lower it, or give more data."
        )
    random.Random(f"{seed}/held-out").shuffle(candidates)
    chosen: set[str] = set()
    broken: dict[str, str] = {}
    for image in candidates:
        if len(chosen) == count:
            break
        reason = pictures.broken(image)
        if reason:
            broken[image] = reason
        else:
            chosen.add(image)
    if len(chosen) < count:
        raise InputError(
            f"{pictures.origin}: only {len(chosen)} of {count} pictures for evaluation can be decoded; for instance "
            f"{next(iter(broken.values()))}."
        )
    return chosen, broken


def _write_evaluation(usable: list[Captioned], held_out: set[str], seed: int, folder: Path) -> None:
    references: dict[str, list[str]] = {image: [] for image in sorted(held_out)}
    for item in usable:
        if item.image in references and item.caption not in references[item.image]:
            references[item.image].append(item.caption)
    write_json(folder / layout.CAPTIONING, layout.captioning_truth(references))
    layout.write_lines(folder / layout.MULTIPLE_CHOICE, _caption_questions(references, seed))


def _caption_questions(references: dict[str, list[str]], seed: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(f"{seed}/questions")
    captions = _Captions(text for texts in references.values() for text in texts)
    letters = balanced_letters(len(references), OPTIONS, rng)
    for number, ((image, texts), letter) in enumerate(zip(references.items(), letters, strict=True)):
        asked = captions.ask(texts[0], set(texts), letter, rng)
        yield question_row(f"question-{number:08d}", image, asked, "caption")


class _Captions:
    """Distinct captions that wrong options are drawn from."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted(set(texts))

    def ask(self, right: str, true: set[str], letter: str, rng: random.Random) -> MultipleChoice:
        """Ask for `right` among captions that are not `true` of the picture."""
        wrong: set[str] = set()
        if len(self._texts) < OPTIONS - 1 + len(true):
            raise InputError(
                f"Only {len(self._texts)} different captions: too few for questions with {OPTIONS} options. Give more data, or "
                f"{layout.CAPTIONING} and {layout.MULTIPLE_CHOICE} of your own."
            )
        while len(wrong) < OPTIONS - 1:
            wrong |= {rng.choice(self._texts)} - true
        return ask(QUESTION, right, sorted(wrong), letter, rng)


def _copy_evaluation(source: Path, folder: Path, pictures: Pictures) -> set[str]:
    """Take over the user's own evaluation data and return its pictures."""
    path = source / layout.CAPTIONING
    try:
        truth = json.loads(path.read_bytes())
        named = [(item, "file_name") for item in truth["images"]]
        rows = [
            json.loads(line) for line in (source / layout.MULTIPLE_CHOICE).read_bytes().splitlines() if line.strip()
        ]
        named += [(row, "image") for row in rows]
        for item, key in named:
            found = pictures.find(item[key])
            if found is None:
                raise InputError(f"{source}: the evaluation picture {item[key]} is not in {pictures.origin}")
            item[key] = found
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} or {layout.MULTIPLE_CHOICE} beside it has another layout ({error!r}): expected COCO captions "
            '{"images": [{"id", "file_name"}], "annotations": [...]} and lines {"id", "image", "question", "options", "answer"}.'
        ) from error
    write_json(folder / layout.CAPTIONING, truth)
    layout.write_lines(folder / layout.MULTIPLE_CHOICE, rows)
    return {item[key] for item, key in named}


def _captioning_entry(item: Captioned) -> layout.Entry:
    return layout.entry(item.identifier, item.image, [(item.prompt, item.caption)])


def _given_conversations(
    path: Path, pictures: Pictures, held_out: set[str], rejects: list[Reject], limit: float
) -> list[layout.Entry]:
    """Read the user's conversations, without those about held-out pictures."""
    entries = _read_list(path)
    kept = []
    for row, entry in enumerate(entries):
        try:
            image = _picture_of(entry, pictures) if not isinstance(entry, dict) or "image" in entry else None
            conversation_pairs(entry.get("conversations"), has_image=image is not None)
        except InputError as error:
            rejects.append(Reject(path.name, row, _identifier(entry, row), str(error)))
        else:
            if image is None:
                kept.append(entry)
            elif image not in held_out:
                kept.append({**entry, "image": image})
    _check_rejects(path, rejects, len(entries), limit)
    if not kept:
        raise InputError(f"{path}: every usable conversation is about a held-out picture; none is left for training.")
    return kept


def _derived_conversations(training: list[Captioned], seed: int, form: AnswerForm) -> Iterator[layout.Entry]:
    """Yield the caption conversation of every entry, followed by a multiple-choice question about its caption."""
    rng = random.Random(f"{seed}/sft")
    captions = _Captions(item.caption for item in training)
    true: dict[str, set[str]] = {}
    for item in training:
        true.setdefault(item.image, set()).add(item.caption)
    for item, letter in zip(training, balanced_letters(len(training), OPTIONS, rng), strict=True):
        asked = captions.ask(item.caption, true[item.image], letter, rng)
        yield layout.entry(item.identifier, item.image, [(item.prompt, item.caption), asked.turn(form)])


def _provide_pictures(pictures: Pictures, used: list[str], target: Path, progress: Progress) -> None:
    """Hard-link the zip (copy it across file systems), or pack the pictures of a folder into one."""
    target.unlink(missing_ok=True)
    if pictures.archive:
        try:
            os.link(pictures.zip_path, target)
        except OSError:
            shutil.copyfile(pictures.zip_path, target)
        return
    progress.start("packing pictures", len(used), "pictures")
    with layout.open_pictures(target) as archive:
        for done, name in enumerate(used, start=1):
            layout.add_picture(archive, name, pictures.read(name))
            progress.update(done)
