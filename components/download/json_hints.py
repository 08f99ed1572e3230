"""What a file holds that should be JSON and is not: for the end of an error message."""

import json

_LFS = b"version https://git-lfs"
_GZIP = b"\x1f\x8b"
_LOOKED_AT = 1 << 16


def instead_of_json(content: bytes) -> str:
    """Return a sentence on what a file that is not JSON seems to be, and what to do about it.

    Args:
        content: The file, or its beginning.
    """
    start = content[:_LOOKED_AT].lstrip()
    if not start:
        return "It is empty: download it again."
    if start.startswith(_GZIP):
        return "It is packed with gzip: unpack it."
    if start.startswith(_LFS):
        return "It is a pointer of git-lfs, not the file: run `git lfs pull` where it comes from."
    if start.startswith(b"<"):
        return "It is a web page, an error's most likely: look at it, and download the file again."
    try:
        start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:  # not a character that was cut through here
            return "It is not UTF-8: store it as UTF-8."
    if _is_object(start.splitlines()[0]) and len(content.splitlines()) > 1:
        return (
            "It holds JSON lines, an entry a line: write one list of them, `[`, the entries with commas between, `]`."
        )
    return "If it was cut off, download it again."


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
