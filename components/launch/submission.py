"""A training job as an object of the cluster: made once, found again, taken over, removed."""

import time
from typing import Any

from components.errors import VlmError
from components.files import read_hint
from components.launch.api import ClusterApi
from components.launch.errors import JobRejected
from components.launch.job import TrainingJob
from components.launch.job_kind import JobKind
from components.launch.pod import HASH_ANNOTATION, OWNER_ANNOTATION, RUN_LABEL, label_value
from components.launch.waiting import Spoken
from components.storage.atomic import write_json

_RECORD = "job.json"
_CANCEL_PATIENCE_S = 20.0
_SUSPEND_PATIENCE_S = 10.0
DYING_S = 60.0
"""Seconds beyond their own grace after which pods that should be gone are spoken of."""


class Submission:
    """The object of one job.

    Args:
        job: The job.
        kind: Its kind.
        api: The cluster.
    """

    def __init__(self, job: TrainingJob, kind: JobKind, api: ClusterApi) -> None:
        self._job = job
        self._kind = kind
        self._body = kind.render(job)
        self._api = api
        self.name: str = self._body["metadata"]["name"]
        self.shown = f"{kind.kind} {api.namespace}/{self.name}"
        self._record = job.log_folder.parent / _RECORD
        self._poll_s = job.cluster.job.poll_s
        self._submitted = False

    def attach(self) -> dict[str, Any]:
        """Return the job on the cluster: a new one, or the one that is there when it is the same work."""
        while True:
            found = self._api.get_job(self.name)
            if found is None:
                self._submitted = True
                found = self._api.create_job(self._body)
                if found is None:
                    continue  # an earlier try's answer was lost, or another launcher was quicker
                self._note(found)
                config = self._job.config
                print(
                    f"{self.shown} created: {config.nodes} x {config.processes_per_node} processes. "
                    f"kubectl -n {self._api.namespace} describe {self._kind.plural} {self.name}",
                    flush=True,
                )
                return found
            if found["metadata"].get("deletionTimestamp"):
                self._wait_until_gone(found)
            elif self._is_taken(found):
                return found

    def _is_taken(self, found: dict[str, Any]) -> bool:
        """Take a job that is there, or remove one that is over; False when it was removed.

        Raises:
            JobRejected: A job of this name does other work.
        """
        status = self._kind.status(found)
        annotations = found["metadata"].get("annotations") or {}
        same = annotations.get(HASH_ANNOTATION) == self._body["metadata"]["annotations"][HASH_ANNOTATION]
        owner = annotations.get(OWNER_ANNOTATION, "")
        record = read_hint(self._record)
        ours = record.get("uid") == found["metadata"]["uid"] or (self._submitted and owner == self._job.run_id)
        if status.over:
            if same and ours and status.phase == "succeeded":
                return True
            print(f"{self.shown} {status.phase} before; it is replaced by a new one", flush=True)
            self.remove(found)
            self._wait_until_gone(found)
            return False
        if not same:
            raise JobRejected(
                f"{self.shown} runs already, with other settings (spec hash {annotations.get(HASH_ANNOTATION)}). Wait for "
                f"it, or end it: kubectl -n {self._api.namespace} delete {self._kind.plural} {self.name}"
            )
        if owner != self._job.run_id:
            metadata = {
                "labels": {RUN_LABEL: label_value(self._job.run_id)},
                "annotations": {OWNER_ANNOTATION: self._job.run_id},
            }
            self._api.patch_job(self.name, {"metadata": metadata}, "take over")
            print(f"{self.shown} taken over from run {owner}", flush=True)
        else:
            print(f"{self.shown} found again", flush=True)
        self._note(found)
        return True

    def _note(self, found: dict[str, Any]) -> None:
        """Write down which job works for this folder, as soon as it is known."""
        write_json(self._record, {"name": self.name, "uid": found["metadata"]["uid"], "run_id": self._job.run_id})

    def _wait_until_gone(self, old: dict[str, Any]) -> None:
        """Wait for the end of a deleted job's pods; one on a lost node stays until the node or a person lets it go."""
        waiting = Spoken(self._job.name)
        deadline = time.monotonic() + self._job.cluster.job.grace_s + DYING_S
        while True:
            found = self._api.get_job(self.name)
            if found is None or found["metadata"]["uid"] != old["metadata"]["uid"]:
                return
            if time.monotonic() > deadline:
                pods = self._api.pods(self._kind.pod_selector(self.name))
                waiting.say([_stuck_pod(self._api.namespace, pod) for pod in pods] or [f"{self.shown} is not gone yet"])
            time.sleep(self._poll_s)

    def remove(self, found: dict[str, Any]) -> None:
        """Delete a job; first suspended, where its operator would make new pods while the old ones end."""
        status = self._kind.status(found)
        if self._kind.suspends and not status.over and status.phase != "suspended":
            self._api.patch_job(self.name, {"spec": {"suspend": True}}, "suspend")
            deadline = time.monotonic() + _SUSPEND_PATIENCE_S
            while time.monotonic() < deadline:
                job = self._api.get_job(self.name)
                if job is None or self._kind.status(job).phase == "suspended":
                    break
                time.sleep(min(self._poll_s, 1.0))
        self._api.delete_job(self.name, found["metadata"]["uid"])

    def cancel(self) -> None:
        """Delete the job if it is still this run's."""
        self._api.patience_s = _CANCEL_PATIENCE_S
        try:
            found = self._api.get_job(self.name)
            if found is None:
                return
            if (found["metadata"].get("annotations") or {}).get(OWNER_ANNOTATION) != self._job.run_id:
                print(f"{self.shown} belongs to another run by now: left alone", flush=True)
                return
            self.remove(found)
        except VlmError as error:
            print(
                f"Can't delete {self.shown}: {error} Delete it yourself: "
                f"kubectl -n {self._api.namespace} delete {self._kind.plural} {self.name}",
                flush=True,
            )
        else:
            print(f"{self.shown} deleted: the run was told to stop", flush=True)


def _stuck_pod(namespace: str, pod: dict[str, Any]) -> str:
    """Return which pod does not end, and where."""
    name, node = pod["metadata"]["name"], (pod.get("spec") or {}).get("nodeName", "?")
    return (
        f"pod {name} of the job before does not end: is node {node} lost? Only when its processes are certainly gone: "
        f"kubectl -n {namespace} delete pod {name} --force"
    )
