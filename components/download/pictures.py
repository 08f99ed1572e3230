"""The pictures of a dataset in LLaVA's layout: in zips, in folders, or in several of both, told apart by prefixes."""

import os
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from components.data.decode import BrokenPicture, check_picture
from components.data.names import canonical_name
from components.download import layout
from components.errors import InputError
from components.progress import Progress
from components.storage.transfer import link_or_copy

_LOOKED_AT = 1000


@dataclass(frozen=True)
class RootSource:
    """Where the pictures are whose names begin with a prefix.

    Attributes:
        prefix: What the names begin with.
        paths: One zip; or folders, of which the first that has a picture counts.
        inside: What stands there instead of the prefix; None to find out.
        target: Name of the zip in the raw dataset folder.
    """

    prefix: str
    paths: tuple[Path, ...]
    inside: str | None
    target: str


class Pictures:
    """The pictures of a dataset by the names that its annotations use.

    Args:
        roots: Where they are.
        lenient: Whether a name may differ from the stored one by a leading `images/`.

    Names are compared in their canonical spelling (`components.data.names`), and every picture has one name.

    Raises:
        InputError: A zip can't be read, or would write outside its folder.
    """

    def __init__(self, roots: Sequence[RootSource], lenient: bool = False) -> None:
        composed = [replace(root, prefix=unicodedata.normalize("NFC", root.prefix)) for root in roots]
        self._roots = [_open(root) for root in sorted(composed, key=lambda root: len(root.prefix), reverse=True)]
        self._lenient = lenient

    def settle(self, names: Iterable[str]) -> None:
        """Find out where in their zips the named pictures are, for roots that don't say so.

        Raises:
            InputError: There are several places.
        """
        unsettled = {root.source.prefix: root for root in self._roots if root.inside is None}
        rests: dict[str, list[str]] = {prefix: [] for prefix in unsettled}
        for name in map(canonical_name, names):
            root = self._root_of(name)
            if root is not None and root.inside is None:
                rests[root.source.prefix].append(name.removeprefix(root.source.prefix))
        for prefix, root in unsettled.items():
            if found := rests[prefix]:
                root.settle(found[:: max(1, len(found) // _LOOKED_AT)])

    def origin(self, image: str = "") -> Path:
        """Return where a picture is looked for, for errors."""
        root = self._root_of(canonical_name(image)) or self._roots[0]
        return root.source.paths[0]

    def find(self, image: str) -> str | None:
        """Return the one name that a picture has in the raw dataset, or None if there is no such picture."""
        given = canonical_name(image)
        names = (given, f"images/{given}", given.removeprefix("images/")) if self._lenient else (given,)
        for name in names:
            root = self._root_of(name)
            if root is None:
                continue
            stored = root.stored(name.removeprefix(root.source.prefix))
            if stored is not None:
                return root.source.prefix + stored
        return None

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names of all pictures of a root."""
        for root in self._roots:
            if root.source.prefix == prefix:
                yield from (prefix + rest for rest in root.rests())

    def read(self, name: str) -> bytes:
        """Return a picture's bytes; in a zip its checksum is verified."""
        root = self._root_of(name)
        if root is None:
            raise FileNotFoundError(name)
        return root.read(name.removeprefix(root.source.prefix))

    def broken(self, name: str) -> str:
        """Return why a picture can't be read or decoded; empty when it can."""
        try:
            check_picture(self.read(name), "decode")
        except (BrokenPicture, OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            return f"picture {name} in {self.origin(name)} is broken: {error}"
        return ""

    def provide(self, used: Iterable[str], folder: Path, progress: Progress) -> list[dict[str, str]]:
        """Put the pictures into the raw dataset folder: zips are linked, pictures of folders packed into one.

        Args:
            used: Names of all pictures that the dataset uses.
            folder: The raw dataset folder.
            progress: Told how far packing or copying is.

        Returns:
            `image_roots` of `dataset.json`; roots that no name belongs to are left out.
        """
        by_root: dict[int, list[str]] = {}
        for name in used:
            root = self._root_of(name)
            if root is not None:
                by_root.setdefault(self._roots.index(root), []).append(name.removeprefix(root.source.prefix))
        entries = []
        for number, rests in sorted(by_root.items(), reverse=True):
            root = self._roots[number]
            inside = root.provide(sorted(rests), folder / root.source.target, progress)
            entries.append(layout.image_root(root.source.prefix, root.source.target, inside))
        return entries

    def close(self) -> None:
        """Close the zips."""
        for root in self._roots:
            root.close()

    def _root_of(self, name: str) -> "_ZipRoot | _FolderRoot | None":
        return next((root for root in self._roots if name.startswith(root.source.prefix)), None)


class _ZipRoot:
    """Pictures in a zip."""

    def __init__(self, source: RootSource) -> None:
        self.source, self.inside = source, source.inside
        self._archive, self._members = _open_zip(source.paths[0])

    def settle(self, rests: Sequence[str]) -> None:
        """Find the folder in which the zip has pictures of these names."""
        by_name: dict[str, list[str]] = {}
        for member in self._members:
            by_name.setdefault(member.rpartition("/")[2], []).append(member)
        places = Counter(
            member.removesuffix(rest)
            for rest in rests
            for member in by_name.get(rest.rpartition("/")[2], ())
            if member == rest or member.endswith(f"/{rest}")
        )
        best = sorted(places.items(), key=lambda place: (-place[1], place[0]))[:2]
        if len(best) == 2 and best[0][1] == best[1][1]:
            raise InputError(
                f"{self.source.paths[0]} has pictures of the same names in {best[0][0]!r} and in {best[1][0]!r}: say in `inside` "
                f"which are those of {self.source.prefix!r}."
            )
        self.inside = best[0][0] if best else ""

    def stored(self, rest: str) -> str | None:
        """Return the name of a picture, None if there is none."""
        return rest if (self.inside or "") + rest in self._members else None

    def rests(self) -> Iterator[str]:
        """Yield what is there."""
        inside = self.inside or ""
        yield from (member.removeprefix(inside) for member in self._members if member.startswith(inside))

    def read(self, rest: str) -> bytes:
        """Return a picture's bytes."""
        return self._archive.read(self._members[(self.inside or "") + rest])

    def provide(self, rests: Sequence[str], target: Path, progress: Progress) -> str:
        """Link the zip (copy it across file systems), and return what stands in it instead of the prefix."""
        link_or_copy(self.source.paths[0], target, progress)
        return self.inside or ""

    def close(self) -> None:
        """Close the zip."""
        self._archive.close()


class _FolderRoot:
    """Pictures in folders."""

    def __init__(self, source: RootSource) -> None:
        self.source, self.inside = source, source.inside or ""

    def settle(self, rests: Sequence[str]) -> None:
        """Folders are taken as they are."""

    def stored(self, rest: str) -> str | None:
        """Return the name of a picture, None if there is none: of a file below several folders, that below the first."""
        if not rest or PurePosixPath(rest).is_absolute() or ".." in PurePosixPath(rest).parts:
            return None
        path = self._path(rest)
        if path is None:
            return None
        tops = (os.path.join(folder, self.inside) for folder in self.source.paths)
        top = next(top for top in tops if path.is_relative_to(top))
        return canonical_name(path.relative_to(top).as_posix())

    def rests(self) -> Iterator[str]:
        """Yield what is there."""
        for folder in self.source.paths:
            top = folder / self.inside
            for parent, _, names in os.walk(top):
                yield from (canonical_name(os.path.relpath(os.path.join(parent, name), top)) for name in names)

    def read(self, rest: str) -> bytes:
        """Return a picture's bytes."""
        path = self._path(rest)
        if path is None:
            raise FileNotFoundError(rest)
        return path.read_bytes()

    def provide(self, rests: Sequence[str], target: Path, progress: Progress) -> str:
        """Pack the pictures into a zip."""
        target.unlink(missing_ok=True)
        progress.start("packing pictures", len(rests), "pictures")
        with layout.open_pictures(target) as archive:
            for done, rest in enumerate(rests, start=1):
                layout.add_picture(archive, rest, self.read(rest))
                progress.update(done)
        return ""

    def close(self) -> None:
        """Nothing is open."""

    def _path(self, rest: str) -> Path | None:
        spellings = (rest,) if rest.isascii() else (rest, unicodedata.normalize("NFD", rest))  # macOS writes the second
        candidates = (folder / (self.inside + name) for folder in self.source.paths for name in spellings)
        return next((path for path in candidates if os.path.isfile(path)), None)


def _open(source: RootSource) -> _ZipRoot | _FolderRoot:
    return _ZipRoot(source) if source.paths[0].is_file() else _FolderRoot(source)


def _open_zip(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Open a zip, and return its members by their canonical names."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise InputError(
            f"{path} is not a readable zip: {error}. It may be cut off: compare its size with the source's, or download it again."
        ) from error
    members: dict[str, zipfile.ZipInfo] = {}
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
        name = canonical_name(member.filename)
        other = members.get(name, member)
        if other.filename != member.filename and (other.CRC, other.file_size) != (member.CRC, member.file_size):
            raise InputError(
                f"{path} holds {other.filename!r} and {member.filename!r}, two pictures whose names differ in spelling alone. Rename "
                "one."
            )
        members[name] = member
    return archive, members
