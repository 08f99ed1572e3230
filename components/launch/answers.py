"""What the Kubernetes API answers, read: the objects of a list, the lines of a log, the words of an error."""

import json
from collections.abc import Iterator
from typing import Any

from kubernetes.client.exceptions import ApiException


def items_of(answer: Any) -> list[dict[str, Any]]:
    """Return the objects of a list, of an answer that the client has not parsed."""
    return list(json.loads(answer.data).get("items") or [])


def lines_of(answer: Any) -> Iterator[str]:
    """Yield the lines of a log as they come, of an answer that the client has not read; its connection is let go at the end.

    Raises:
        urllib3.exceptions.HTTPError, OSError: The connection broke.
    """
    rest = b""
    try:
        for chunk in answer.stream(amt=None, decode_content=True):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode("utf-8", errors="replace") for line in lines)
        if rest:
            yield rest.decode("utf-8", errors="replace")
    finally:
        answer.release_conn()


def message_of(error: ApiException) -> str:
    """Return what the server says of an error; where it says nothing that is to be read, its status."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.status} {error.reason}"
