"""Reads a cluster's API by path: what is there, what is not, and what may not be seen, told apart."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import urllib3
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException

from components.errors import VlmError
from components.launch.answers import message_of

Object = dict[str, Any]

_TIMEOUT_S = (10.0, 30.0)  # to connect, to answer


class Unreadable(VlmError):
    """Something of the cluster can't be looked at; whether it is there is not known."""


@dataclass(frozen=True)
class Clock:
    """The API server's clock when it answered.

    Attributes:
        server: Its time, in seconds since 1970, to the second.
        ahead_s: By how much it is ahead of this machine's, in seconds.
    """

    server: float
    ahead_s: float


class Reader:
    """Looks at a cluster; each object once.

    Args:
        connection: Client of the cluster's API.
    """

    def __init__(self, connection: ApiClient) -> None:
        self._connection = connection
        self._seen: dict[str, Object | None] = {}

    def get(self, path: str) -> Object | None:
        """Return what lies at a path of the API, as `/api/v1/nodes`; None when nothing does.

        Raises:
            Unreadable: It may not be seen, or the API does not answer.
        """
        if path not in self._seen:
            try:
                self._seen[path] = json.loads(self._call("GET", path).data)
            except ApiException as error:
                if error.status != 404:
                    raise Unreadable(message_of(error)) from None
                self._seen[path] = None
        return self._seen[path]

    def items(self, path: str) -> list[Object]:
        """Return the objects of a list; none where the cluster has no such kind.

        Raises:
            Unreadable: They may not be seen, or the API does not answer.
        """
        found = self.get(path)
        return list(found.get("items") or []) if found else []

    def post(self, path: str, body: Mapping[str, Any]) -> Object:
        """Create an object, or ask a question, and return the answer.

        Raises:
            Unreadable: The cluster refuses, or does not answer.
        """
        try:
            answer: Object = json.loads(self._call("POST", path, body).data)
        except ApiException as error:
            raise Unreadable(message_of(error)) from None
        return answer

    def delete(self, path: str) -> None:
        """Delete an object at once; one that is gone is left alone.

        Raises:
            Unreadable: The cluster refuses, or does not answer.
        """
        try:
            self._call("DELETE", path, {"gracePeriodSeconds": 0})
        except ApiException as error:
            if error.status != 404:
                raise Unreadable(message_of(error)) from None

    def look_again(self, path: str) -> Object | None:
        """Return what lies at a path now, seen before or not.

        Raises:
            Unreadable: It may not be seen, or the API does not answer.
        """
        self._seen.pop(path, None)
        return self.get(path)

    def text(self, path: str) -> str:
        """Return a text, as a pod's log.

        Raises:
            Unreadable: It may not be seen, or the API does not answer.
        """
        try:
            content: bytes = self._call("GET", path).data
        except ApiException as error:
            raise Unreadable(message_of(error)) from None
        return content.decode("utf-8", errors="replace")

    def clock(self) -> Clock:
        """Return the API server's clock.

        Raises:
            Unreadable: The API does not answer, or does not say the time.
        """
        before = time.time()
        try:
            answer = self._call("GET", "/version")
        except ApiException as error:
            raise Unreadable(message_of(error)) from None
        here = (before + time.time()) / 2
        date = answer.headers.get("Date")
        if not date:
            raise Unreadable("the API server's answer has no date")
        server = parsedate_to_datetime(date).timestamp()
        return Clock(server, server + 0.5 - here)  # the date is cut to the second

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        resource, _, query = path.partition("?")
        pairs = [tuple(pair.split("=", 1)) for pair in query.split("&")] if query else []
        try:
            return self._connection.call_api(
                resource,
                method,
                query_params=pairs,
                header_params={"Accept": "application/json, */*", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _preload_content=False,
                _request_timeout=_TIMEOUT_S,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreadable(f"the Kubernetes API does not answer ({type(error).__name__})") from None
