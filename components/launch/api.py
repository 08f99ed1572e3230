"""The Kubernetes API as the launcher uses it: plain objects, retries with backoff, errors that say what to do."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException

from components.errors import ConfigurationError
from components.launch.answers import lines_of, message_of
from components.launch.errors import ClusterFailure, JobRejected
from components.launch.evidence import shortened
from components.launch.job_kind import JobKind

Object = dict[str, Any]

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PASSING_STATUS = frozenset({0, 408, 429, 500, 502, 503, 504})
# A 403 of admission (quota, webhook, namespace that ends); one of missing rights says "is forbidden: User ... cannot ...".
_ADMISSION = re.compile(r"is forbidden: (?!User )|denied the request")
_TIMEOUT_S = (10.0, 60.0)  # to connect, to answer
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0


def connect(pods: int) -> ApiClient:
    """Return a client with the credentials of this pod, or of kubeconfig outside a cluster.

    Args:
        pods: Number of logs that will be read at once.

    Raises:
        ConfigurationError: There are no credentials.
    """
    settings = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)
    except ConfigException:
        try:
            config.load_kube_config(client_configuration=settings)
        except ConfigException as error:
            raise ConfigurationError(
                f"There is no Kubernetes cluster to submit to: {error}. Run inside a cluster, set KUBECONFIG, or use "
                "launch.backend local."
            ) from None
    settings.connection_pool_maxsize = pods + 4
    settings.retries = False  # all retries are ClusterApi's, with words and a limit
    return ApiClient(settings)


def own_namespace() -> str:
    """Return the namespace of this pod, or of kubeconfig's context outside a cluster."""
    if _NAMESPACE_FILE.is_file():
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    try:
        _, active = config.list_kube_config_contexts()
    except ConfigException:
        return "default"
    return str(active.get("context", {}).get("namespace") or "default")


class ClusterApi:
    """Calls of one namespace.

    Args:
        connection: The client.
        namespace: Namespace of jobs and pods.
        kind: Kind of the jobs.
        patience_s: Seconds that an unreachable or failing API is waited for.
    """

    def __init__(self, connection: ApiClient, namespace: str, kind: JobKind, patience_s: float) -> None:
        self.namespace = namespace
        self.patience_s = patience_s
        self._kind = kind
        self._core = client.CoreV1Api(connection)
        self._custom = client.CustomObjectsApi(connection)

    def create_job(self, body: Object) -> Object | None:
        """Create a job; None when one of its name is there, also because an earlier answer was lost.

        Raises:
            JobRejected: The cluster does not take the job.
        """
        kind = self._kind
        try:
            return self._object(
                f"create {kind.kind} {body['metadata']['name']}",
                lambda: self._custom.create_namespaced_custom_object(
                    kind.group, kind.version, self.namespace, kind.plural, body, **_RAW
                ),
            )
        except ApiException as error:
            if error.status == 409:
                return None
            raise self._rejection(error, "create") from None

    def get_job(self, name: str) -> Object | None:
        """Return a job, or None when there is none."""
        kind = self._kind
        try:
            return self._object(
                f"look at {kind.kind} {name}",
                lambda: self._custom.get_namespaced_custom_object(
                    kind.group, kind.version, self.namespace, kind.plural, name, **_RAW
                ),
            )
        except ApiException as error:
            if error.status == 404 and _names_an_object(error):
                return None
            raise self._rejection(error, "get") from None

    def patch_job(self, name: str, body: Object, what: str) -> None:
        """Change a job.

        Args:
            name: Its name.
            body: What changes, as a merge patch.
            what: What that is for, in a word or two.
        """
        kind = self._kind
        try:
            self._object(
                f"{what} {kind.kind} {name}",
                lambda: self._custom.patch_namespaced_custom_object(
                    kind.group, kind.version, self.namespace, kind.plural, name, body, **_RAW
                ),
            )
        except ApiException as error:
            raise self._rejection(error, "patch") from None

    def delete_job(self, name: str, uid: str) -> None:
        """Delete a job and its pods; one that is gone, or another one of its name, is left alone."""
        kind = self._kind
        body = client.V1DeleteOptions(propagation_policy="Foreground", preconditions=client.V1Preconditions(uid=uid))
        try:
            self._object(
                f"delete {kind.kind} {name}",
                lambda: self._custom.delete_namespaced_custom_object(
                    kind.group, kind.version, self.namespace, kind.plural, name, body=body, **_RAW
                ),
            )
        except ApiException as error:
            if error.status not in (404, 409):
                raise self._rejection(error, "delete") from None

    def cluster_object(self, plural: str, name: str) -> Object | None:
        """Return an object of the job's API group that belongs to no namespace, or None when there is none."""
        kind = self._kind
        try:
            return self._object(
                f"look at {plural} {name}",
                lambda: self._custom.get_cluster_custom_object(kind.group, kind.version, plural, name, **_RAW),
            )
        except ApiException as error:
            if error.status == 404 and _names_an_object(error):
                return None
            raise self._rejection(error, "get", plural) from None

    def pods(self, selector: str) -> list[Object]:
        """Return the pods of a label selector."""
        return self._items(
            "list pods", lambda: self._core.list_namespaced_pod(self.namespace, label_selector=selector, **_RAW)
        )

    def pod_uid(self, name: str) -> str:
        """Return the uid of the pod that has a name now, empty for none. Asks once.

        Raises:
            ApiException, urllib3.exceptions.HTTPError, OSError: No answer.
        """
        answer = self._core.list_namespaced_pod(self.namespace, field_selector=f"metadata.name={name}", **_RAW)
        items = json.loads(answer.data).get("items") or []
        return str(items[0]["metadata"]["uid"]) if items else ""

    def events(self, uid: str) -> list[Object]:
        """Return the events of an object, the oldest first; none when they may not be read."""
        found = self._optional_items(
            "list events",
            lambda: self._core.list_namespaced_event(
                self.namespace, field_selector=f"involvedObject.uid={uid}", **_RAW
            ),
        )
        return sorted(found, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))

    def workloads(self, job_uid: str | None = None) -> list[Object]:
        """Return Kueue's view of a job, or of all of this namespace; none without Kueue or the permission to look."""
        selector = {} if job_uid is None else {"label_selector": f"kueue.x-k8s.io/job-uid={job_uid}"}
        return self._optional_items(
            "look at the queue",
            lambda: self._custom.list_namespaced_custom_object(
                "kueue.x-k8s.io", "v1beta2", self.namespace, "workloads", **selector, **_RAW
            ),
        )

    def log_tail(self, pod: str, container: str, lines: int) -> list[str]:
        """Return the last lines of a pod's log; none when there is no log any more."""
        try:
            answer = self._retried(
                f"read the log of {pod}",
                lambda: self._core.read_namespaced_pod_log(
                    pod, self.namespace, container=container, tail_lines=lines, **_RAW
                ),
            )
        except ApiException:
            return []
        return answer.data.decode("utf-8", errors="replace").splitlines()

    def stream_log(self, pod: str, uid: str, container: str, since_s: int | None) -> Iterator[str]:
        """Yield a pod's log, each line after its time stamp and a blank, until the container ends or the line is cut.

        Nothing is yielded of another pod that has the name by now.

        Raises:
            ApiException, urllib3.exceptions.HTTPError, OSError: No log (yet), or the connection broke.
        """
        options = {} if since_s is None else {"since_seconds": since_s}
        answer = self._core.read_namespaced_pod_log(
            pod, self.namespace, container=container, follow=True, timestamps=True, **options,
            _preload_content=False, _request_timeout=(10.0, 300.0),
        )  # fmt: skip
        try:
            if self.pod_uid(pod) == uid:  # asked after the log was opened: so it was this pod's then, too
                yield from lines_of(answer)
        finally:
            answer.release_conn()

    def _items(self, what: str, call: Callable[[], Any]) -> list[Object]:
        try:
            return list(self._object(what, call).get("items") or [])
        except ApiException as error:
            raise self._rejection(error, what) from None

    def _optional_items(self, what: str, call: Callable[[], Any]) -> list[Object]:
        try:
            return list(self._object(what, call).get("items") or [])
        except ApiException:
            return []

    def _object(self, what: str, call: Callable[[], Any]) -> Object:
        found: Object = json.loads(self._retried(what, call).data)
        return found

    def _retried(self, what: str, call: Callable[[], Any]) -> Any:
        """Call until the API answers with other than a passing error."""
        deadline = time.monotonic() + self.patience_s
        wait = _FIRST_WAIT_S
        while True:
            try:
                return call()
            except ApiException as error:
                if error.status not in _PASSING_STATUS:
                    raise
                problem, answered = _shown(error), error.status != 0
            except (urllib3.exceptions.HTTPError, OSError) as error:
                problem, answered = f"{type(error).__name__}: {error}", False
            if time.monotonic() + wait > deadline:
                who = "The Kubernetes API goes on failing" if answered else "The Kubernetes API does not answer"
                raise ClusterFailure(
                    f"{who}: can't {what}, tried for {self.patience_s:.0f} s: {problem}. {self._consequence(what)}"
                )
            print(f"can't {what}: {problem}; trying again in {wait:g} s", flush=True)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)

    def _consequence(self, what: str) -> str:
        """Return what it means that a call got no answer in time."""
        kind = self._kind
        if what.startswith("create "):
            return (
                f"As far as is known no {kind.kind} was made. If a webhook has no endpoints, its operator does not run: "
                f"look at {kind.operator} and Kueue, and run again."
            )
        return f"A {kind.kind} that was made goes on; run again to follow it."

    def _rejection(self, error: ApiException, verb: str, plural: str = "") -> JobRejected:
        """Return what the API said and what to do about it."""
        kind = self._kind
        said = message_of(error)
        if error.status == 404:
            advice = f"Install {kind.operator}, or choose another launch.backend."
        elif error.status == 403 and plural:
            advice = f"Let this pod's service account get {plural}.{kind.group} (manifests/trainer/runtime.yaml)."
        elif error.status == 403 and not _ADMISSION.search(said):
            advice = (
                f"Let this pod's service account get, create, patch and delete {kind.plural}.{kind.group}, list pods and "
                "events, and get pods/log (manifests/base/rbac.yaml)."
            )
        elif error.status == 401:
            advice = "The credentials are not valid (any more)."
        else:
            advice = "Change what it names: a setting under cluster or launch, or the namespace's own rules."
        return JobRejected(
            f"The cluster refuses to {verb} the {plural or kind.kind} in namespace {self.namespace}: {said}. {advice}"
        )


_RAW: dict[str, Any] = {"_preload_content": False, "_request_timeout": _TIMEOUT_S}


def _shown(error: ApiException) -> str:
    """Return status and message; a proxy's page is left out."""
    said = message_of(error)
    return said if said.startswith(str(error.status)) else shortened(f"{error.status} {error.reason}: {said}")


def _names_an_object(error: ApiException) -> bool:
    """Tell a missing object from a missing API: only the former has details with its name."""
    try:
        return bool(json.loads(error.body or "")["details"]["name"])
    except (ValueError, KeyError, TypeError):
        return False
