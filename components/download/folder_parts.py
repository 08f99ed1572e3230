"""A dataset's parts from one folder in LLaVA's layout."""

import json
from pathlib import Path, PurePosixPath

from components.download import layout
from components.download.parts import DatasetParts
from components.download.pictures import RootSource
from components.errors import InputError
from components.stage.manifest import MANIFEST_NAME
from components.storage.lock import LOCK_NAME

_OWN_FILES = {
    layout.SFT,
    layout.CAPTIONING,
    *layout.BENCHMARK_CAPTIONS,
    layout.EVALUATION_PICTURES,
    layout.DESCRIPTION,
    LOCK_NAME,
    MANIFEST_NAME,
}


def folder_parts(source: Path, origin: str) -> DatasetParts:
    """Find the parts in a folder: one annotations file, pictures, optionally `sft.json`, optionally evaluation data.

    Args:
        source: The folder; that of an earlier download is one, too.
        origin: Where it comes from.

    Raises:
        InputError: The folder has another layout.
    """
    there = [name for name in (layout.CAPTIONING, layout.MULTIPLE_CHOICE) if (source / name).is_file()]
    if len(there) == 1:
        raise InputError(
            f"{source} has {there[0]} alone: give both {layout.CAPTIONING} and {layout.MULTIPLE_CHOICE}, or neither."
        )
    if streamed := sorted(source.glob("*.mixture.json")):
        raise InputError(
            f"{source} is a download whose data is streamed ({streamed[0].name}) from elsewhere: name the datasets in "
            "`data.pretrain.datasets`, or the run's settings."
        )
    roots = _described_roots(source)
    if roots is None:
        archive = source / layout.PICTURES
        paths = (
            (archive,) if archive.is_file() else tuple(path for path in (source / "images", source) if path.is_dir())
        )
        roots = (RootSource("", paths, "", layout.PICTURES),)
    return DatasetParts(
        origin=origin,
        pretrain=_find_annotations(source),
        roots=roots,
        sft=source / layout.SFT if (source / layout.SFT).is_file() else None,
        captioning=source / layout.CAPTIONING if there else None,
        multiple_choice=source / layout.MULTIPLE_CHOICE if there else None,
        captions={name: source / name for name in layout.BENCHMARK_CAPTIONS if (source / name).is_file()},
        more={path.name: path for path in sorted(source.glob("*.jsonl")) if _holds_questions(path)},
        lenient=True,
    )


def _holds_questions(path: Path) -> bool:
    """Tell whether a file of JSON lines is a task's: its first line has an id and a picture."""
    if path.name in (layout.MULTIPLE_CHOICE, layout.REJECTS):
        return False
    with open(path, "rb") as stream:
        try:
            row = json.loads(stream.readline())
        except ValueError:
            return False
    return isinstance(row, dict) and {"id", "image"} <= set(row)


def _described_roots(source: Path) -> tuple[RootSource, ...] | None:
    """Read `image_roots` of a raw dataset folder; None where there is none."""
    path = source / layout.DESCRIPTION
    if not path.is_file():
        return None
    try:
        entries = json.loads(path.read_bytes()).get("image_roots")
        if entries is None:
            return None
        roots = []
        for entry in entries:
            name = PurePosixPath(entry["source"])
            if name.is_absolute() or ".." in name.parts:
                raise InputError(f"{path}: the image root {entry['source']!r} lies outside the folder.")
            target = entry["source"] if name.suffix == ".zip" else f"{name}.zip"
            roots.append(RootSource(entry["prefix"], (source / name,), entry["inside"], target))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} can't be read ({error!r}): `image_roots` must be a list of {{prefix, source, inside}}."
        ) from error
    return tuple(roots)


def _find_annotations(source: Path) -> Path:
    files = [path for path in sorted(source.iterdir()) if path.is_file()]
    found = [path for path in files if path.suffix.lower() == ".json" and path.name not in _OWN_FILES]
    if len(found) == 1:
        return found[0]
    if not found:
        packed = [path.name for path in files if path.name.lower().endswith((".json.gz", ".json.zip"))]
        hint = f" Unpack {packed[0]}." if packed else ""
        raise InputError(
            f"{source} has no annotations: expected one JSON file with a list of entries, such as blip_laion_cc_sbu_558k.json.{hint}"
        )
    names = ", ".join(path.name for path in found)
    raise InputError(
        f"{source} has several JSON files ({names}): leave only the captions there (and {layout.SFT} if you have it)."
    )
