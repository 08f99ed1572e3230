"""Takes in a dataset in LLaVA's layout, and holds some of its pictures out for evaluation."""

import contextlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.data.conversation import read_conversation
from components.data.entry import check_text, named_pictures, printable
from components.download import layout
from components.download.config import FolderConfig
from components.download.derived import OPTIONS, Captioned, caption_questions, derived_conversations
from components.download.evaluation import given_references, read_evaluation, write_evaluation
from components.download.json_hints import instead_of_json
from components.download.parts import DatasetParts
from components.download.pictures import Pictures
from components.errors import InputError
from components.progress import Progress
from components.storage.atomic import write_json

Part = Literal["pretrain", "sft"]

_SHOWN_REJECTS = 3
_LEAST_HELD_OUT = OPTIONS  # a question needs as many captions


@dataclass(frozen=True)
class Reject:
    """An entry that can't be used: of which part ("pretrain", "sft"), in which file, at which place of its list (from 0), its
    id, and why."""

    part: Part
    file: str
    row: int
    identifier: str
    reason: str


def write_dataset(
    parts: DatasetParts, config: FolderConfig, seed: int, name: str, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write a raw dataset folder; the bytes of pictures in zips are not touched.

    Args:
        parts: Captions, pictures, optionally conversations and evaluation data.
        config: How much is held out, how much may be unusable.
        seed: Seed of what is held out and of derived questions.
        name: The dataset's name.
        folder: Where to write; existing files are replaced.
        progress: Told how far it is.

    Returns:
        Facts: counts, and what is held out.

    Raises:
        InputError: A part has another layout or is broken, or too many entries are unusable.
    """
    annotations = parts.pretrain
    pictures = Pictures(parts.roots, parts.lenient)
    try:
        rejects: list[Reject] = []
        usable, total = _read_captioned(annotations, pictures, rejects, progress)
        _check_rejects("pretrain", annotations, rejects, total, config.max_reject_share)
        given = read_evaluation(parts, pictures, folder, progress)
        if given.truth is None:
            chosen, broken = _choose_held_out(
                annotations, usable, pictures, config.held_out_pictures, seed, given.pictures
            )
            rejects += [
                _reject("pretrain", annotations, item.row, item.identifier, broken[item.image])
                for item in usable
                if item.image in broken
            ]
            usable = [item for item in usable if item.image not in broken]
            _check_rejects("pretrain", annotations, rejects, total, config.max_reject_share)
            references = _references(usable, chosen)
            truth = layout.captioning_truth(references)
            held_out = chosen | given.pictures
            rule = f"{len(chosen)} pictures chosen at random (seed {seed}); no training entry uses them"
        else:
            truth, references = given.truth, given_references(given.truth)
            held_out = given.pictures
            rule = f"the pictures of {', '.join([layout.CAPTIONING, layout.MULTIPLE_CHOICE, *given.tasks, *given.captions])}"
        questions = given.questions if given.questions is not None else list(caption_questions(references, seed))
        facts: dict[str, Any] = {
            **write_evaluation(folder, truth, questions, given.tasks, given.captions, given.made_of)
        }
        training = [item for item in usable if item.image not in held_out]
        if not training:
            raise InputError(
                f"{annotations}: no entry is left for training after holding out {len(held_out)} pictures."
            )
        facts["pretrain_entries"] = layout.write_list(folder / layout.PRETRAIN, map(_captioning_entry, training))
        used = {item.image for item in training} | held_out
        entries: Iterable[layout.Entry]
        if parts.sft is not None:
            entries = talks = _given_conversations(parts.sft, pictures, held_out, rejects, config.max_reject_share)
            used.update(name for item in talks for name in named_pictures(item))
        else:
            entries = derived_conversations(training, seed, config.answer_form)
        facts["sft_entries"] = layout.write_list(folder / layout.SFT, entries)
        roots = pictures.provide(used - given.own, folder, progress)
        roots += given.roots
    finally:
        pictures.close()
    layout.write_lines(folder / layout.REJECTS, (vars(reject) for reject in rejects))
    facts |= {
        "held_out_pictures": len(held_out),
        "rejected_entries": len(rejects),
        "pictures": len(used),
        "picture_bytes": sum((folder / root["source"]).stat().st_size for root in roots),
    }
    description = {
        "name": name,
        "source": parts.origin,
        **({"sources": dict(parts.sources)} if parts.sources else {}),
        "annotations": annotations.name,
        "seed": seed,
        "licence": config.licence,
        "settings": config.model_dump(),
        "counts": facts,
        "image_roots": roots,
        "held_out": rule,
        "sft": "given" if parts.sft is not None else "derived from the training captions",
    }
    write_json(folder / layout.DESCRIPTION, description)
    return {**facts, "held_out": rule}


def _read_list(path: Path) -> list[Any]:
    content = path.read_bytes()
    try:
        entries = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}. {instead_of_json(content)}") from error
    if isinstance(entries, dict):
        lists = [f"`{key}`" for key, value in entries.items() if isinstance(value, list)]
        held = f"; it holds an object with {', '.join(lists[:3]) or 'no list'}: write the list alone"
        raise InputError(f'{path} must hold a list of entries like {{"id", "image", "conversations"}}{held}.')
    if not isinstance(entries, list) or not entries:
        raise InputError(f'{path} must hold a list of entries like {{"id", "image", "conversations"}}; it holds none.')
    return entries


def _read_captioned(
    annotations: Path, pictures: Pictures, rejects: list[Reject], progress: Progress
) -> tuple[list[Captioned], int]:
    entries = _read_list(annotations)
    pictures.settle(_named(entries))
    progress.start("checking entries", len(entries), "entries")
    usable: list[Captioned] = []
    for row, entry in enumerate(entries):
        identifier = _identifier(entry, row)
        try:
            image = _caption_picture(entry, pictures)
            turns = read_conversation(entry.get("conversations"), pictures=1).turns
            if len(turns) != 1:
                raise InputError(f"expected one human turn and one caption, found {len(turns)} pairs")
            check_text([identifier, turns[0].text, turns[0].answer])
        except InputError as error:
            rejects.append(_reject("pretrain", annotations, row, identifier, str(error)))
        else:
            usable.append(Captioned(row, identifier, image, turns[0].text, turns[0].answer))
        if row % 1000 == 0:
            progress.update(row)
    progress.update(len(entries))
    return usable, len(entries)


def _named(entries: Iterable[Any]) -> Iterator[str]:
    """Yield the picture names of entries, whatever else is wrong with them."""
    for entry in entries:
        with contextlib.suppress(InputError):
            yield from named_pictures(entry)


def _identifier(entry: Any, row: int) -> str:
    identifier = entry.get("id") if isinstance(entry, dict) else None
    return str(identifier) if isinstance(identifier, str | int) and str(identifier) else f"row-{row}"


def _pictures_of(entry: Any, pictures: Pictures) -> list[str]:
    """Return the names that an entry's pictures have in the raw dataset."""
    names = []
    for image in named_pictures(entry):
        name = pictures.find(image)
        if name is None:
            raise InputError(f"picture {image} is not in {pictures.origin(image)}")
        names.append(name)
    return names


def _caption_picture(entry: Any, pictures: Pictures) -> str:
    names = _pictures_of(entry, pictures)
    if not names:
        raise InputError("the entry names no picture (`image`)")
    if len(names) > 1:
        raise InputError(f"`image` lists {len(names)} pictures; a caption is of one")
    return names[0]


def _reject(part: Part, path: Path, row: int, identifier: str, reason: str) -> Reject:
    return Reject(part, path.name, row, printable(identifier), printable(reason))


def _check_rejects(part: Part, path: Path, rejects: list[Reject], total: int, limit: float) -> None:
    count = sum(reject.part == part for reject in rejects)
    if count <= limit * total and count < total:
        return
    shown = [reject for reject in rejects if reject.part == part][:_SHOWN_REJECTS]
    examples = "; ".join(f"entry {reject.row} ({reject.identifier}): {reject.reason}" for reject in shown)
    raise InputError(
        f"{path}: {count} of {total} entries can't be used, more than max_reject_share {limit} allows. First ones: {examples}."
    )


def _choose_held_out(
    annotations: Path, usable: list[Captioned], pictures: Pictures, count: int, seed: int, taken: set[str]
) -> tuple[set[str], dict[str, str]]:
    """Choose pictures at random, none of those taken already; another takes the place of one that can't be decoded.

    Returns:
        The held-out pictures, and the broken ones that were met with the reason of each.
    """
    candidates = sorted({item.image for item in usable} - taken)
    if 2 * count > len(candidates):
        count = max(len(candidates) // 4, _LEAST_HELD_OUT)
    if 2 * count > len(candidates):
        raise InputError(
            f"{annotations} has {len(candidates)} usable pictures; {2 * _LEAST_HELD_OUT} are needed: {_LEAST_HELD_OUT} are held out for "
            "evaluation, and as many to learn from. Give more pictures with captions."
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
            f"{pictures.origin()}: only {len(chosen)} of {count} pictures for evaluation can be decoded; for instance "
            f"{next(iter(broken.values()))}."
        )
    return chosen, broken


def _references(usable: list[Captioned], held_out: set[str]) -> dict[str, list[str]]:
    references: dict[str, list[str]] = {image: [] for image in sorted(held_out)}
    for item in usable:
        if item.image in references and item.caption not in references[item.image]:
            references[item.image].append(item.caption)
    return references


def _captioning_entry(item: Captioned) -> layout.Entry:
    return layout.entry(item.identifier, item.image, [(item.prompt, item.caption)])


def _given_conversations(
    path: Path, pictures: Pictures, held_out: set[str], rejects: list[Reject], limit: float
) -> list[layout.Entry]:
    """Read the given conversations, without those about held-out pictures."""
    entries = _read_list(path)
    pictures.settle(_named(entries))
    kept = []
    for row, entry in enumerate(entries):
        try:
            names = _pictures_of(entry, pictures)
            read_conversation(entry.get("conversations"), pictures=len(names))
            check_text(entry)
        except InputError as error:
            rejects.append(_reject("sft", path, row, _identifier(entry, row), str(error)))
        else:
            if not names:
                kept.append({key: value for key, value in entry.items() if key != "image"})
            elif held_out.isdisjoint(names):
                kept.append({**entry, "image": names[0] if len(names) == 1 else names})
    _check_rejects("sft", path, rejects, len(entries), limit)
    if not kept:
        raise InputError(f"{path}: every usable conversation is about a held-out picture; none is left for training.")
    return kept
