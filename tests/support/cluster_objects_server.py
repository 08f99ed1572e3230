"""A small Kubernetes API that lists and deletes what a run has: its workflow, pods and training jobs, by label, in all namespaces or in one."""

import json
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.support.json_server import JsonHandler, JsonServer, Object

_PATH = re.compile(r"^/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/([^/]+))?/([a-z]+)(?:/([^/]+))?$")
_JOBS = Path(__file__).parent / "recorded" / "pytorchjobs" / "succeeded.json"


def recorded_job() -> Object:
    """A PyTorchJob as a real operator left it."""
    job: Object = json.loads(_JOBS.read_text())[0]
    return job


@dataclass(frozen=True)
class Key:
    """What an object is found by."""

    plural: str
    namespace: str
    name: str


class ClusterObjectsServer:
    """The server's state.

    Attributes:
        objects: What there is.
        requests: Every request that changed something.
        installed: Plurals of the kinds that there are.
        only: The one namespace that may be seen; empty for all.
        sticky: Names that a deletion does not remove.
        slow: Names whose deletion takes its time.
    """

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.requests: list[str] = []
        self.installed = {"pods", "workflows", "pytorchjobs"}
        self.only = ""
        self.sticky: set[str] = set()
        self.slow: set[str] = set()
        self._http = JsonServer(_Handler, self)
        self.url = self._http.url

    def close(self) -> None:
        self._http.close()

    def add(self, plural: str, namespace: str, name: str, **more: Object) -> Object:
        found: Object = {**more, "metadata": {**more.get("metadata", {}), "namespace": namespace, "name": name}}
        found["metadata"]["uid"] = str(uuid.uuid4())
        self.objects[Key(plural, namespace, name)] = found
        return found

    def names(self, plural: str) -> set[str]:
        return {key.name for key in self.objects if key.plural == plural}


class _Handler(JsonHandler):
    state: ClusterObjectsServer

    def serve(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        self.answer(*self._dispatch(method, path, query, json.loads(body or b"null")))

    def _dispatch(self, method: str, path: str, query: dict[str, str], body: Object | None) -> tuple[int, Object]:
        state = self.state
        match = _PATH.match(path)
        assert match, path
        namespace, plural, name = match.groups()
        if plural not in state.installed:
            return 404, {"message": "404 page not found"}
        if state.only and namespace != state.only:
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            return 403, {
                "message": f'{plural} is forbidden: User "you" cannot {method.lower()} resource "{plural}" {where}'
            }
        if not name:
            wanted = dict(part.split("=") for part in query["labelSelector"].split(","))
            found = [
                item
                for key, item in state.objects.items()
                if key.plural == plural
                and namespace in (None, key.namespace)
                and wanted.items() <= item["metadata"].get("labels", {}).items()
            ]
            return 200, {"items": found}
        return self._one(method, Key(plural, namespace, name), body)

    def _one(self, method: str, key: Key, body: Object | None) -> tuple[int, Object]:
        state = self.state
        state.requests.append(f"{method} {key.plural} {key.namespace}/{key.name}")
        item = state.objects.get(key)
        if item is None:
            return 404, {"message": f'{key.plural} "{key.name}" not found'}
        if method == "PATCH":
            item.setdefault("spec", {}).update((body or {})["spec"])
        if method == "DELETE":
            assert body is not None
            if body["preconditions"]["uid"] != item["metadata"]["uid"]:
                return 409, {"message": "the UID in the precondition does not match"}
            assert key.plural == "pods" or body["propagationPolicy"] == "Foreground"
            if key.name in state.slow:
                item["metadata"]["deletionTimestamp"] = "2026-11-27T12:20:07Z"
            elif key.name not in state.sticky:
                del state.objects[key]
        return 200, item
