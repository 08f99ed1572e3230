"""Passes the output of all pods on, through cut connections and restarts, every line once and with its rank."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException

from components.launch.api import ClusterApi
from components.launch.evidence import rank_of
from components.launch.job_kind import JobKind

_KEPT_LINES = 2000
_OVERLAP_S = 10


class LogFollower:
    """Follows the logs of a job's pods, one thread each.

    A pod is known by its uid: after a preemption another one may have its name.

    Args:
        api: Where the logs are.
        kind: Kind of the job.
        poll_s: Seconds before a log that broke off is asked for again.
        heard: Takes each line.
    """

    def __init__(
        self, api: ClusterApi, kind: JobKind, poll_s: float, heard: Callable[[str], None] = lambda _: None
    ) -> None:
        self._api = api
        self._kind = kind
        self._poll_s = poll_s
        self._heard = heard
        self._threads: dict[str, threading.Thread] = {}
        self._seen: dict[str, dict[str, Any]] = {}
        self._ended: set[str] = set()
        self._stopped = threading.Event()
        self._print = threading.Lock()
        self._kept: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_KEPT_LINES))

    def follow(self, pods: list[dict[str, Any]]) -> list[int]:
        """Start to follow pods that have begun, and note those that have ended or are gone.

        Returns:
            The nodes whose pod is another one than before.
        """
        again = []
        here = {pod["metadata"]["uid"] for pod in pods}
        self._ended |= set(self._threads) - here
        for pod in pods:
            uid, node = pod["metadata"]["uid"], self._node(pod)
            if pod["status"].get("phase") in ("Succeeded", "Failed"):
                self._ended.add(uid)
            if uid in self._threads:
                self._seen[uid] = pod
            elif has_begun(pod, self._kind.container):
                if any(self._node(other) == node for other in self._seen.values()):
                    again.append(node)
                self._seen[uid] = pod
                thread = threading.Thread(target=self._follow, args=(pod,), name=f"log of {uid}", daemon=True)
                self._threads[uid] = thread
                thread.start()
        return sorted(again)

    def newest(self) -> list[dict[str, Any]]:
        """Return each node's newest pod that was followed, as it was seen last: it may be gone."""
        newest = {self._node(pod): pod for pod in self._seen.values()}
        return [newest[node] for node in sorted(newest)]

    def outputs(self) -> dict[str, list[str]]:
        """Return the last lines of each node's newest pod, by the node's name."""
        return {f"node {self._node(pod)}": self.kept(pod) for pod in self.newest()}

    def finish(self, timeout_s: float) -> None:
        """Wait until all lines of ended pods are here, at most `timeout_s`, and stop."""
        deadline = time.monotonic() + timeout_s
        for uid, thread in self._threads.items():
            if uid in self._ended:
                thread.join(timeout=max(0.0, deadline - time.monotonic()))
        self._stopped.set()

    def kept(self, pod: Mapping[str, Any]) -> list[str]:
        """Return the last lines of a pod that have come."""
        return list(self._kept[pod["metadata"]["uid"]])

    def _node(self, pod: Mapping[str, Any]) -> int:
        return self._kind.node_rank(pod["metadata"].get("labels") or {})

    def _follow(self, pod: Mapping[str, Any]) -> None:
        metadata = pod["metadata"]
        name, uid, node = metadata["name"], metadata["uid"], self._node(pod)
        last, repeated = "", 0  # the newest time stamp, and how many lines had it
        heard = 0.0
        while not self._stopped.is_set():
            ended = uid in self._ended  # before reading: what is read afterwards is all there is
            since = int(time.monotonic() - heard) + _OVERLAP_S if heard else None
            skip = repeated
            try:
                for stamped in self._api.stream_log(name, uid, self._kind.container, since):
                    stamp, _, line = stamped.partition(" ")
                    if stamp < last:
                        continue
                    if stamp == last:
                        if skip:
                            skip -= 1
                            continue
                        repeated += 1
                    else:
                        last, repeated, skip = stamp, 1, 0
                    heard = time.monotonic()
                    self._pass_on(uid, node, line)
                    if self._stopped.is_set():
                        return
            except (ApiException, urllib3.exceptions.HTTPError, OSError):
                pass  # the main loop tells an unreachable API; here it is enough to ask again
            else:
                if ended:
                    return
            if ended and (self._stopped.wait(self._poll_s) or self._is_gone(name, uid)):
                return
            if not ended:
                self._stopped.wait(self._poll_s)

    def _is_gone(self, name: str, uid: str) -> bool:
        try:
            return self._api.pod_uid(name) != uid
        except (ApiException, urllib3.exceptions.HTTPError, OSError):
            return False

    def _pass_on(self, uid: str, node: int, line: str) -> None:
        text = line.rstrip("\r")
        self._heard(text)
        self._kept[uid].append(text)
        with self._print:
            print(text if rank_of(text) is not None else f"[node {node}] {text}", flush=True)


def has_begun(pod: Mapping[str, Any], container: str) -> bool:
    """Tell whether a pod's container runs or has run."""
    for status in pod["status"].get("containerStatuses") or []:
        if status["name"] == container:
            state = status.get("state") or {}
            return "running" in state or "terminated" in state or bool(status.get("restartCount"))
    return False
