"""The pods of a run, where kubectl's configuration reaches its cluster: why they wait, and what they print."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from components.errors import ConfigurationError
from components.launch.answers import items_of, lines_of
from components.launch.api import connect
from components.launch.waiting import pod_reason
from pipelines.cluster_objects import pod_selector, seen

_RAW: dict[str, Any] = {"_preload_content": False, "_request_timeout": (3.0, 15.0)}  # to connect, to answer
_FOLLOW_TIMEOUT_S = (3.0, 3600.0)
_CONTAINER = "main"
_UNREACHABLE = (ApiException, urllib3.exceptions.HTTPError, OSError)

Object = dict[str, Any]


class RunPods:
    """The pods of one run.

    Args:
        core: The Kubernetes API.
        run_id: The run.
        namespace: Namespace of its pods; empty to look for them.
    """

    def __init__(self, core: client.CoreV1Api, run_id: str, namespace: str = "") -> None:
        self._core = core
        self._run_id = run_id
        self._namespace = namespace

    @staticmethod
    def reached_from_here(run_id: str, namespace: str = "") -> "RunPods | None":
        """Return the pods of a run by kubectl's configuration; None where there is none."""
        try:
            return RunPods(client.CoreV1Api(connect(pods=1)), run_id, namespace)
        except ConfigurationError:
            return None

    def reasons(self) -> tuple[dict[str, str], str]:
        """Return why pods wait, by their names, and what kept us from looking, if anything did."""
        try:
            pods = self._pods()
        except _UNREACHABLE as error:
            return {}, f"Why pods wait is not known: {_problem(error)}."
        pending = [pod for pod in pods if pod["status"].get("phase") == "Pending"]
        return {pod["metadata"]["name"]: pod_reason(pod, self._events) for pod in pending}, ""

    def namespace_of(self, pod: str) -> str | None:
        """Return the namespace of a pod of the run; None where the pod is gone or the cluster is not reached."""
        with suppress(*_UNREACHABLE):
            for found in self._pods():
                if found["metadata"]["name"] == pod:
                    return str(found["metadata"]["namespace"])
        return None

    def log(self, pod: str, namespace: str, follow: bool) -> Iterator[str]:
        """Yield the lines of a pod's log; with `follow` until its container ends.

        Raises:
            ApiException, urllib3.exceptions.HTTPError, OSError: There is no log, or the connection broke.
        """
        answer = self._core.read_namespaced_pod_log(
            pod,
            namespace,
            container=_CONTAINER,
            follow=follow,
            _preload_content=False,
            _request_timeout=_FOLLOW_TIMEOUT_S,
        )
        yield from lines_of(answer)

    def _pods(self) -> list[Object]:
        """Return the run's pods: of the namespace, else of all that may be seen."""
        options = {"label_selector": pod_selector(self._run_id), **_RAW}

        def within(namespace: str) -> Any:
            return self._core.list_namespaced_pod(namespace, **options)

        if self._namespace:
            return items_of(within(self._namespace))
        return items_of(seen(lambda: self._core.list_pod_for_all_namespaces(**options), within)[0])

    def _events(self, uid: str) -> list[Object]:
        try:
            found = items_of(
                self._core.list_event_for_all_namespaces(field_selector=f"involvedObject.uid={uid}", **_RAW)
            )
        except ApiException:
            return []
        return sorted(found, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))


def _problem(error: Exception) -> str:
    if isinstance(error, ApiException):
        return f"the Kubernetes API answers {error.status} {error.reason}"
    return f"the Kubernetes API does not answer ({type(error).__name__})"
