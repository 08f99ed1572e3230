"""Where the pictures' bytes are: members of a zip, read in place, or files of a folder."""

import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from components.errors import InputError

ZIP_NAME = "images.zip"
FOLDER_NAME = "images"

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_DEFLATE_WINDOW = -15  # raw deflate, as zip members are


@dataclass(frozen=True)
class ZipMember:
    """Where a member lies in a zip: what the central directory says of it."""

    header_offset: int
    stored_bytes: int
    method: int
    crc: int


@dataclass(frozen=True)
class Pictures:
    """A raw dataset's pictures by name.

    Attributes:
        path: The zip, or the folder.
        members: Name to place in the zip; None for a folder.
    """

    path: Path
    members: dict[str, ZipMember] | None

    def find(self, name: str) -> ZipMember | Path | None:
        """Return where a picture is, or None if there is none of that name."""
        if self.members is not None:
            return self.members.get(name)
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or PurePosixPath(name).is_absolute():
            return None
        path = self.path.joinpath(*parts)
        return path if path.is_file() else None


def open_pictures(raw: Path) -> Pictures | None:
    """Find the pictures of a raw dataset folder: `images.zip`, or else `images/`; None if it has neither.

    Raises:
        InputError: The zip can't be read.
    """
    path = raw / ZIP_NAME
    if not path.is_file():
        folder = raw / FOLDER_NAME
        return Pictures(folder, None) if folder.is_dir() else None
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename: ZipMember(info.header_offset, info.compress_size, info.compress_type, info.CRC)
                for info in archive.infolist()
                if not info.is_dir()
            }
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise InputError(
            f"{path} is not a readable zip file: {error}. It may be cut off: compare its size with the source's and "
            "download it again."
        ) from error
    return Pictures(path, members)


def read_member(descriptor: int, member: ZipMember) -> bytes:
    """Read a member through an open file descriptor and check its CRC.

    Raises:
        ValueError: The member is damaged, or its compression is neither "stored" nor "deflated".
    """
    header = os.pread(descriptor, _LOCAL_HEADER.size, member.header_offset)
    if len(header) != _LOCAL_HEADER.size:
        raise ValueError("the zip ends before its header")
    signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    if signature != _LOCAL_SIGNATURE:
        raise ValueError("the zip has no header where its directory says")
    start = member.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    content = _pread_all(descriptor, member.stored_bytes, start)
    if member.method == zipfile.ZIP_DEFLATED:
        try:
            content = zlib.decompress(content, _DEFLATE_WINDOW)
        except zlib.error as error:
            raise ValueError(f"it does not inflate: {error}") from error
    elif member.method != zipfile.ZIP_STORED:
        raise ValueError(f"zip compression method {member.method} is not supported; use stored or deflated")
    if zlib.crc32(content) != member.crc:
        raise ValueError("its checksum (CRC) in the zip does not match")
    return content


def _pread_all(descriptor: int, size: int, offset: int) -> bytes:
    content = os.pread(descriptor, size, offset)
    while len(content) < size:
        more = os.pread(descriptor, size - len(content), offset + len(content))
        if not more:
            raise ValueError("the zip ends within it")
        content += more
    return content
