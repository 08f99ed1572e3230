"""Patience with a network volume: a read that fails says nothing about the file, and may succeed a moment later."""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from components.errors import StageError

_WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Before each further attempt: a server that is replaced or fails over is back within seconds."""

_PASSING = {
    getattr(errno, name)
    for name in (
        "EAGAIN",
        "EBUSY",
        "ECONNABORTED",
        "ECONNREFUSED",
        "ECONNRESET",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "EINTR",
        "EIO",
        "ENETDOWN",
        "ENETRESET",
        "ENETUNREACH",
        "ENOTCONN",
        "EREMOTEIO",
        "ESHUTDOWN",
        "ESTALE",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)  # not every system knows each
}

_Result = TypeVar("_Result")


def may_pass(error: OSError) -> bool:
    """Return whether an error may be over at the next attempt: a stale handle, a time-out, a lost connection."""
    return error.errno in _PASSING or isinstance(
        error, BlockingIOError | ConnectionError | InterruptedError | TimeoutError
    )


def read_patiently(read: Callable[[], _Result], path: Path) -> _Result:
    """Return what `read` returns, trying again for some seconds while the volume fails.

    Args:
        read: Reads, from the beginning at each attempt, and changes nothing.
        path: What is read, for messages.

    Raises:
        FileNotFoundError: The volume answers that there is no such file.
        NotADirectoryError: Likewise, for what stands in the place of its folder.
        StageError: The volume goes on failing, or refuses to read. Whether the file is good is not known.
    """
    waits = iter(_WAITS_S)
    while True:
        try:
            return read()
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            wait_s = next(waits, None) if may_pass(error) else None
            if wait_s is None:
                tried = f", for {sum(_WAITS_S):g} s" if may_pass(error) else ""
                raise StageError(
                    f"{path} can't be read: {error}{tried}. That says nothing about its content, and nothing was changed: "
                    "look at the volume, its connection and its rights, and run again."
                ) from error
            print(f"{path}: {error}; again in {wait_s:g} s", flush=True)
        time.sleep(wait_s)


def read_bytes(path: Path) -> bytes:
    """Return a file's content; see `read_patiently`."""
    return read_patiently(path.read_bytes, path)
