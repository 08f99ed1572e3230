"""Where a raw dataset's pictures lie and how they are read: members of zips, in place, and files of folders.

Light on imports: the conversion's processes use it too.
"""

import json
import os
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from components.data.names import canonical_name
from components.errors import InputError

DESCRIPTION_FILE = "dataset.json"
ROOTS_KEY = "image_roots"
DEFAULT_ZIP = "images.zip"
DEFAULT_FOLDER = "images"

_LOCAL_HEADER = struct.Struct("<4s2xH18xHH")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED = 0x1
_RAW_DEFLATE = -15  # zlib's window for deflated data without a header, as zip members are
_MAX_IMAGE_BYTES = 1 << 28


class MissingImage(InputError):
    """There is no picture of that name."""


class BrokenImage(InputError):
    """A picture's bytes can't be had: the zip is damaged there, or the file can't be read."""


class ImageRoot(BaseModel):
    """One place of pictures, as `dataset.json` lists it under `image_roots`.

    A picture belongs to the root with the longest prefix that its name starts with, and lies in `source` under
    `inside` + the rest of its name.

    Attributes:
        prefix: Start of the names that belong here ("coco/train2017/"); empty for all.
        source: A zip or a folder, relative to the raw dataset folder. It may be a symbolic link.
        inside: What takes the prefix's place within the source ("train2017/").
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: str = ""
    source: str = Field(min_length=1)
    inside: str = ""

    @field_validator("source")
    @classmethod
    def _stays_in_the_dataset(cls, source: str) -> str:
        if not _is_plain(source):
            raise ValueError("must be a path below the raw dataset folder, without '..'")
        return source


class ZipPlace(NamedTuple):
    """Where a zip's member lies: number of the source, and what the zip's directory says of the member."""

    source: int
    header_offset: int
    stored_bytes: int
    image_bytes: int
    method: int
    crc: int


class FilePlace(NamedTuple):
    """Where a file lies: number of the source, and the path below it."""

    source: int
    path: str


Place = ZipPlace | FilePlace


def picture_files(raw: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return what decides which picture a name means: the zips and folders of a raw dataset, and its roots as JSON."""
    roots = read_image_roots(raw)
    return sorted({root.source for root in roots}), [root.model_dump() for root in roots]


def read_image_roots(raw: Path) -> tuple[ImageRoot, ...]:
    """Return the roots of a raw dataset folder, the longest prefix first.

    Without `image_roots` in its `dataset.json`: `images.zip`, else the folder `images/`, else none.

    Raises:
        InputError: `dataset.json` can't be read, or a root is not as `ImageRoot` says.
    """
    path = raw / DESCRIPTION_FILE
    given = None
    if path.is_file():
        try:
            given = json.loads(path.read_bytes()).get(ROOTS_KEY)
        except (ValueError, AttributeError) as error:
            raise InputError(f"{path} must hold a JSON object: {error}. Run the download again.") from error
    if given is None:
        defaults = [name for name in (DEFAULT_ZIP, DEFAULT_FOLDER) if (raw / name).exists()]
        return tuple(ImageRoot(source=name) for name in defaults[:1])
    try:
        roots = TypeAdapter(tuple[ImageRoot, ...]).validate_python(given)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, (ROOTS_KEY, *problem["loc"])))
        raise InputError(
            f'{path}: {place}: {problem["msg"]}. Expected a list of {{"prefix", "source", "inside"}}.'
        ) from error
    repeated = {root.prefix for root in roots if [other.prefix for other in roots].count(root.prefix) > 1}
    if repeated:
        raise InputError(f"{path}: {ROOTS_KEY} has the prefix {sorted(repeated)[0]!r} more than once.")
    return tuple(sorted(roots, key=lambda root: len(root.prefix), reverse=True))


class ImageIndex:
    """Finds pictures by name: holds the directory of every zip that was asked for a picture.

    Args:
        raw: Raw dataset folder.

    Attributes:
        sources: The zips and folders, for `ImageReader`; empty where the dataset has no pictures.

    Raises:
        InputError: A root is wrong, or its source does not exist.
    """

    def __init__(self, raw: Path) -> None:
        self._roots = read_image_roots(raw)
        names = list(dict.fromkeys(root.source for root in self._roots))
        self.sources = tuple(raw / name for name in names)
        self._numbers = {name: number for number, name in enumerate(names)}
        self._members: dict[int, dict[str, ZipPlace] | None] = {}
        absent = [path for path in self.sources if not path.exists()]
        if absent:
            raise InputError(f"The pictures {absent[0]} do not exist. Run the download again, or mend {ROOTS_KEY}.")

    def find(self, name: str) -> Place | None:
        """Return where a picture is, or None if the zips have none of that name, or if it would lie outside its source.

        Names are compared in their canonical spelling, on both sides. Whether a file exists is seen when it is read.

        Raises:
            InputError: The zip where it should be can't be read.
        """
        name = canonical_name(name)
        root = next((root for root in self._roots if name.startswith(root.prefix)), None)
        if root is None:
            return None
        path = root.inside + name[len(root.prefix) :]
        if not _is_plain(path):
            return None
        number = self._numbers[root.source]
        if number not in self._members:
            self._members[number] = _directory(self.sources[number], number)
        members = self._members[number]
        return FilePlace(number, path) if members is None else members.get(path)


class ImageReader:
    """Reads pictures from where `ImageIndex` found them; holds nothing but open files.

    Args:
        sources: `ImageIndex.sources`.
    """

    def __init__(self, sources: Sequence[Path]) -> None:
        self._sources = sources
        self._descriptors: dict[int, int] = {}
        self._folders: dict[int, str] = {}

    def __enter__(self) -> Self:
        """Return the reader; its files are closed with the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the zips."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors = {}

    def read(self, place: Place) -> bytes:
        """Return a picture's bytes; in a zip its checksum is verified.

        Raises:
            MissingImage: There is no such file, or it lies outside its folder.
            BrokenImage: The zip is damaged there, or the file can't be read.
        """
        source = self._sources[place.source]
        try:
            if isinstance(place, FilePlace):
                if place.source not in self._folders:
                    self._folders[place.source] = os.path.realpath(source)
                return _read_file(self._folders[place.source], place.path)
            if place.source not in self._descriptors:
                self._descriptors[place.source] = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            return _read_member(self._descriptors[place.source], place)
        except FileNotFoundError as error:
            raise MissingImage(f"in {source.name}: {error}") from error
        except ValueError as error:
            raise BrokenImage(f"in {source.name}: {error}") from error


def _is_plain(path: str) -> bool:
    """Tell whether a relative path stays below where it starts."""
    parts = path.split("/")
    names = any(part not in ("", ".") for part in parts)
    return names and ".." not in parts and not path.startswith("/") and "\0" not in path


def _directory(path: Path, source: int) -> dict[str, ZipPlace] | None:
    """Return a zip's members by their canonical names; None for a folder."""
    if path.is_dir():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                canonical_name(info.filename): ZipPlace(
                    source, info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC
                )
                for info in archive.infolist()
                if not info.is_dir()
            }
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise InputError(
            f"{path} is not a readable zip file: {error}. It may be cut off: compare its size with the source's and "
            "download it again."
        ) from error


def _read_file(folder: str, path: str) -> bytes:
    """Read a file; a FileNotFoundError or ValueError says what is wrong, without the folder: it differs between machines."""
    real = os.path.realpath(os.path.join(folder, path))
    if not os.path.isfile(real) and not path.isascii():  # a folder that macOS wrote
        real = os.path.realpath(os.path.join(folder, unicodedata.normalize("NFD", path)))
    if os.path.commonpath((folder, real)) != folder:
        raise FileNotFoundError("a symbolic link leads out of it")
    if not os.path.isfile(real):
        raise FileNotFoundError("there is no such file")
    try:
        with open(real, "rb") as stream:
            content = stream.read(_MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"it can't be read: {error.strerror}") from error
    if len(content) > _MAX_IMAGE_BYTES:
        raise ValueError(f"it has more than {_MAX_IMAGE_BYTES} bytes")
    return content


def _read_member(descriptor: int, place: ZipPlace) -> bytes:
    """Read a zip's member through an open file and check its checksum; a ValueError says what is wrong."""
    if max(place.image_bytes, place.stored_bytes) > _MAX_IMAGE_BYTES:
        raise ValueError(f"it has more than {_MAX_IMAGE_BYTES} bytes")
    header = os.pread(descriptor, _LOCAL_HEADER.size, place.header_offset)
    if len(header) != _LOCAL_HEADER.size:
        raise ValueError("the zip ends before its header")
    signature, flags, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    if signature != _LOCAL_SIGNATURE:
        raise ValueError("the zip has no header where its directory says")
    if flags & _ENCRYPTED:
        raise ValueError("it is encrypted; zip the pictures without a password")
    start = place.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    content = _pread_all(descriptor, place.stored_bytes, start)
    if place.method == zipfile.ZIP_DEFLATED:
        content = _inflate(content, place.image_bytes)
    elif place.method != zipfile.ZIP_STORED:
        raise ValueError(f"zip compression method {place.method} is not supported; use stored or deflated")
    if zlib.crc32(content) != place.crc:
        raise ValueError("its checksum (CRC) in the zip does not match")
    return content


def _inflate(content: bytes, size: int) -> bytes:
    """Inflate at most what the zip's directory promises: a few bytes can hold gigabytes."""
    try:
        return zlib.decompressobj(_RAW_DEFLATE).decompress(content, size + 1)
    except zlib.error as error:
        raise ValueError(f"it does not inflate: {error}") from error


def _pread_all(descriptor: int, size: int, offset: int) -> bytes:
    content = os.pread(descriptor, size, offset)
    while len(content) < size:
        more = os.pread(descriptor, size - len(content), offset + len(content))
        if not more:
            raise ValueError("the zip ends within it")
        content += more
    return content
