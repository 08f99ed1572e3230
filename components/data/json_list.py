"""A JSON list of entries, read one after the other: about one is in memory at a time."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from components.errors import InputError

CHUNK_BYTES = 1 << 20
_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\n\r]*")
_BYTE_ORDER_MARK = "\ufeff"
_AFTER_VALUE = " \t\n\r,]"
_LONGEST_WORD = 16  # what a literal or an escape at the end of the text in memory may lack


def read_json_list(
    stream: IO[bytes], shown: str, offset: int = 0, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[tuple[int, Any]]:
    """Yield the entries of a JSON list.

    Args:
        stream: The file, in UTF-8.
        shown: What the file is called, for errors.
        offset: Where to begin: 0 for the first entry, or what was yielded with another one.
        chunk_bytes: Bytes that are read at a time.

    Yields:
        The entry's byte offset in the file, and the entry.

    Raises:
        InputError: The file is not JSON, or is not a list of entries.
    """
    stream.seek(offset)
    text = _Text(stream, offset, chunk_bytes)
    try:
        if not offset:
            if text.next_character() == _BYTE_ORDER_MARK:
                text.take()
            if text.next_character() != "[":
                raise InputError(f'{shown} must hold a JSON list of entries like {{"id", "image", "conversations"}}.')
            text.take()
            if text.next_character() == "]":
                raise InputError(f"{shown} holds an empty list: it must have entries.")
        while True:
            text.next_character()
            start = text.offset
            yield start, text.value()
            separator = text.next_character()
            if separator not in (",", "]"):
                raise ValueError(f"expected ',' or ']', found {separator or 'the end'!r}")
            text.take()
            if separator == "]":
                break
        if rest := text.next_character():
            raise ValueError(f"the list has ended, yet {rest!r} follows")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{shown} is not JSON: at byte {text.offset}: {error}. If it was cut off, download it again."
        ) from error


class _Text:
    """Text of a file of which only the part around the reading position is in memory.

    Attributes:
        offset: Byte offset of the reading position in the file.
    """

    def __init__(self, stream: IO[bytes], offset: int, chunk_bytes: int) -> None:
        self.offset = offset
        self._stream = stream
        self._chunk_bytes = chunk_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._position = 0
        self._ended = False

    def next_character(self) -> str:
        """Skip blanks and return the character that follows; empty at the end."""
        while True:
            self._move(_BLANKS.match(self._text, self._position).end())  # type: ignore[union-attr]
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_more():
                return ""

    def take(self) -> None:
        """Step over one character."""
        self._move(self._position + 1)

    def value(self) -> Any:
        """Read a JSON value and step over it."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                near_the_end = error.pos >= len(self._text) - _LONGEST_WORD or error.msg.startswith("Unterminated")
                if not near_the_end or not self._read_more():
                    raise ValueError(error.msg) from error
                continue
            # A number may go on in what has not been read.
            if self._text[end : end + 1] in _AFTER_VALUE and end < len(self._text):
                self._move(end)
                return value
            if end < len(self._text) - _LONGEST_WORD or not self._read_more():
                self._move(end)
                return value

    def _move(self, position: int) -> None:
        passed = self._text[self._position : position]
        self.offset += len(passed) if passed.isascii() else len(passed.encode())
        self._position = position

    def _read_more(self) -> bool:
        """Read on, at least as much as is unread: an entry of any size takes time in proportion to it."""
        if self._ended:
            return False
        unread = self._text[self._position :]
        content = self._stream.read(max(self._chunk_bytes, len(unread)))
        self._ended = not content
        self._text, self._position = unread + self._decoder.decode(content, final=self._ended), 0
        return True
