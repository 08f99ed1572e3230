"""What every scheme gives: files elsewhere that can be read from any byte, and the faults that reading may meet."""

import datetime
import email.utils
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Protocol

from components.errors import InputError
from components.storage.uri import without_secrets

CHUNK_BYTES = 1 << 18
"""Most bytes of a chunk: what a fault within it may cost."""

_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_LASTING = {HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED}


class PassingFault(Exception):
    """Something that may be over at the next attempt: a cut or stalled connection, an overloaded server.

    Attributes:
        retry_after_s: Seconds that the server asks to wait, or None.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(without_secrets(reason))
        self.retry_after_s = retry_after_s


class SourceChanged(Exception):
    """The file is another than when the fetch began: what was received so far is worth nothing."""


class RangesIgnored(Exception):
    """The server sent the whole file where a part of it was asked for."""


@dataclass(frozen=True)
class FileFacts:
    """What is known of a file before it is read.

    Attributes:
        size: Bytes, or None where the server does not say.
        validator: Changes when the content changes (ETag, time of change, commit); empty where there is none.
        ranges: Whether it can be read from any byte.
    """

    size: int | None
    validator: str
    ranges: bool = True


class RemoteFile(Protocol):
    """One file elsewhere; reading is safe from several threads.

    Attributes:
        name: Relative path that it is stored under.
        shown: Its URI without secrets.
        facts: What is known of it.
        sha256: Its checksum where the source tells it, else empty.
    """

    name: str
    shown: str
    facts: FileFacts
    sha256: str

    def refresh(self) -> None:
        """Ask for the facts again."""

    def read(self, start: int, end: int | None) -> Iterator[bytes]:
        """Yield the bytes from `start` to `end` (exclusive; None for the file's end).

        Raises:
            PassingFault: It is worth another attempt, from the byte reached.
            SourceChanged: The file is another now.
            RangesIgnored: It can only be read from its beginning.
            InputError: It is missing, forbidden, or the server contradicts itself.
        """


@dataclass(frozen=True)
class Listing:
    """The files behind a URI.

    Attributes:
        shown: The URI without secrets.
        files: In order of their names.
        pinned: A URI that will always list these files, where the scheme has one (a commit of the hub); else empty.
    """

    shown: str
    files: tuple[RemoteFile, ...]
    pinned: str = ""


def check_status(status: int, shown: str, retry_after: str | None = None, hint: str = "", reason: str = "") -> None:
    """Judge an HTTP status.

    Args:
        status: The status.
        shown: What was asked for, without secrets.
        retry_after: The header of that name.
        hint: What to do where access is refused.
        reason: What else the server says.

    Raises:
        PassingFault: The server is busy or has a fault of its own.
        SourceChanged: A condition on the content failed, or a range lies behind its end.
        InputError: It will not go better the next time.
    """
    if status < HTTPStatus.BAD_REQUEST:
        return
    said = f"{status} {_phrase(status)}" + (f" ({without_secrets(reason)})" if reason else "")
    if status in (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
        raise SourceChanged(f"the server answered {said}")
    if status in _PASSING or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _LASTING):
        raise PassingFault(f"the server answered {said}", retry_after_seconds(retry_after))
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise InputError(f"No access to {shown}: the server answered {said}. {hint}".strip())
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        raise InputError(f"{shown} does not exist: the server answered {said}. Check the name.")
    raise InputError(f"{shown} can't be fetched: the server answered {said}.")


def stored_name(name: str, shown: str) -> str:
    """Return the relative path that a listed file is stored under.

    Raises:
        InputError: It would lie outside its folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or "\0" in name:
        raise InputError(f"{shown} lists a file named {name!r}, which would lie outside its folder.")
    return path.as_posix()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "unknown status"


def retry_after_seconds(retry_after: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if not retry_after:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        date = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (date - datetime.datetime.now(datetime.UTC)).total_seconds())
