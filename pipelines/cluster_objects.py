"""What a run has in Kubernetes, found by its labels in all namespaces that may be seen: workflow, pods, training jobs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import urllib3
from kubernetes import client
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException

from components.errors import StageError
from components.launch.answers import items_of, message_of
from components.launch.api import own_namespace
from components.launch.cluster import JOB_KINDS
from components.launch.pod import OWNER_ANNOTATION, RUN_LABEL, label_value

_KFP_LABEL = "pipeline/runid"  # KFP's, of the workflow and of its pods
_WORKFLOWS = ("argoproj.io", "v1alpha1", "workflows")
_OVER = ("Succeeded", "Failed")
_RAW: dict[str, Any] = {"_preload_content": False, "_request_timeout": (5.0, 30.0)}  # to connect, to answer
_FORBIDDEN, _MISSING, _CONFLICT = 403, 404, 409

Object = dict[str, Any]
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Found:
    """An object of the cluster.

    Attributes:
        kind: Its kind, as people write it.
        namespace: Its namespace.
        name: Its name.
        uid: Its uid.
        going: It is being deleted, in the time that its pods have to end.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    going: bool = False

    def __str__(self) -> str:
        """Return what people are told: kind, namespace and name."""
        return f"{self.kind} {self.namespace}/{self.name}".strip()


def pod_selector(run_id: str) -> str:
    """Return the label selector of a run's pods."""
    return f"{_KFP_LABEL}={run_id}"


def job_selector(run_id: str) -> str:
    """Return the label selector of a run's training jobs."""
    return f"{RUN_LABEL}={label_value(run_id)}"


def seen(
    everywhere: Callable[[], _Answer], within: Callable[[str], _Answer], namespace: str = ""
) -> tuple[_Answer, str]:
    """Ask about all namespaces, and where that is forbidden about one.

    Args:
        everywhere: Asks about all.
        within: Asks about one.
        namespace: Which one; empty for that of kubectl's context.

    Returns:
        The answer, and the namespace that it is about; an empty one for all.

    Raises:
        ApiException: Another error, or this is forbidden too.
    """
    try:
        return everywhere(), ""
    except ApiException as error:
        if error.status != _FORBIDDEN:
            raise
    namespace = namespace or own_namespace()
    return within(namespace), namespace


class RunObjects:
    """The objects of one run.

    Every method raises a `StageError` where the cluster does not answer or does not let us.

    Args:
        connection: Client of the cluster's API.
        run_id: KFP's id of the run.
        namespace: Where to look if not all namespaces may be seen; empty for that of kubectl's context.

    Attributes:
        scope: Where it was looked, for people: " in the namespace NAME", or nothing where it was everywhere.
    """

    def __init__(self, connection: ApiClient, run_id: str, namespace: str = "") -> None:
        self._core = client.CoreV1Api(connection)
        self._custom = client.CustomObjectsApi(connection)
        self._run_id = run_id
        self._namespace = namespace
        self.scope = ""

    def workflows(self) -> list[Found]:
        """Return the run's workflow."""
        return [_found("workflow", item) for item in self._customs(*_WORKFLOWS, pod_selector(self._run_id))]

    def pods(self) -> list[Found]:
        """Return the pods of the run's tasks that are not over."""
        options = {"label_selector": pod_selector(self._run_id), **_RAW}
        items = self._listed(
            "list pods",
            lambda: self._core.list_pod_for_all_namespaces(**options),
            lambda namespace: self._core.list_namespaced_pod(namespace, **options),
        )
        return [_found("pod", item) for item in items if item.get("status", {}).get("phase") not in _OVER]

    def jobs(self) -> list[Found]:
        """Return the training jobs that are the run's; one that another run has taken over is not."""
        found = []
        for kind in JOB_KINDS.values():
            for item in self._customs(kind.group, kind.version, kind.plural, job_selector(self._run_id)):
                owner = (item["metadata"].get("annotations") or {}).get(OWNER_ANNOTATION)
                if owner == self._run_id:
                    found.append(_found(kind.kind, item))
        return found

    def stop_workflow(self, workflow: Found) -> None:
        """Stop a workflow at once, its exit handler too: that may be what hangs."""
        body = {"spec": {"shutdown": "Terminate"}}
        self._asked(
            f"stop {workflow}",
            lambda: self._custom.patch_namespaced_custom_object(
                *_WORKFLOWS[:2], workflow.namespace, _WORKFLOWS[2], workflow.name, body, **_RAW
            ),
        )

    def delete_pod(self, pod: Found) -> None:
        """Delete a pod; one that is gone by now is no error."""
        body = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=pod.uid))
        self._asked(
            f"delete {pod}", lambda: self._core.delete_namespaced_pod(pod.name, pod.namespace, body=body, **_RAW)
        )

    def delete_job(self, job: Found) -> None:
        """Delete a training job with its pods; one that is gone by now is no error."""
        kind = next(kind for kind in JOB_KINDS.values() if kind.kind == job.kind)
        body = client.V1DeleteOptions(
            propagation_policy="Foreground", preconditions=client.V1Preconditions(uid=job.uid)
        )
        self._asked(
            f"delete {job}",
            lambda: self._custom.delete_namespaced_custom_object(
                kind.group, kind.version, job.namespace, kind.plural, job.name, body=body, **_RAW
            ),
        )

    def _customs(self, group: str, version: str, plural: str, selector: str) -> list[Object]:
        options = {"label_selector": selector, **_RAW}
        return self._listed(
            f"list {plural}",
            lambda: self._custom.list_cluster_custom_object(group, version, plural, **options),
            lambda namespace: self._custom.list_namespaced_custom_object(group, version, namespace, plural, **options),
        )

    def _listed(self, what: str, everywhere: Callable[[], Any], within: Callable[[str], Any]) -> list[Object]:
        """Return objects of all namespaces, or of one where only that may be seen; none of a kind that is not installed."""

        def call() -> Any:
            answer, namespace = seen(everywhere, within, self._namespace)
            if namespace:
                self.scope = f" in the namespace {namespace}"
            return answer

        answer = self._asked(what, call)
        return items_of(answer) if answer is not None else []

    def _asked(self, what: str, call: Callable[[], Any]) -> Any:
        """Return the API's answer; None where what is asked about is not there.

        Raises:
            StageError: The API does not answer, or refuses.
        """
        try:
            return call()
        except ApiException as error:
            if error.status in (_MISSING, _CONFLICT):
                return None
            raise StageError(f"can't {what}: {message_of(error)}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StageError(f"can't {what}: the Kubernetes API does not answer ({type(error).__name__})") from None


def _found(kind: str, item: Object) -> Found:
    metadata = item["metadata"]
    going = bool(metadata.get("deletionTimestamp"))
    return Found(kind, metadata.get("namespace", ""), metadata["name"], metadata["uid"], going)
