"""Runs a training job on a cluster: one job per work, found again after every interruption, followed to its end."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from kubernetes.client import ApiClient

from components.errors import StageError, VlmError
from components.files import read_hint
from components.launch import pytorchjob, trainjob
from components.launch.api import ClusterApi, connect, own_namespace
from components.launch.errors import ClusterFailure, JobRejected, TrainingFailed
from components.launch.failure import explain
from components.launch.job import TrainingJob
from components.launch.job_kind import JobKind, JobStatus
from components.launch.logs import LogFollower
from components.launch.pod import HASH_ANNOTATION, OWNER_ANNOTATION, RUN_LABEL, label_value
from components.launch.waiting import reasons
from components.storage.atomic import write_json

JOB_KINDS: dict[str, JobKind] = {"pytorchjob": pytorchjob.KIND, "trainjob": trainjob.KIND}
_RECORD = "job.json"
_TAIL_LINES = 2000
_LAST_LOGS_S = 30.0
_CANCEL_PATIENCE_S = 20.0
_SAME_REASON_S = 600.0


def run_on_cluster(job: TrainingJob, connection: ApiClient | None = None) -> None:
    """Submit the job, or find it, and follow it to its end.

    The job's name comes from its content, so that a second try, a second run or a launcher that was killed finds the
    job instead of starting another. Logs of all ranks are passed on, the rank named; while pods wait, the reasons are
    shown. SIGTERM or SIGINT deletes the job, if it is still this run's. Nothing is waited for with a limit except an
    unreachable API.

    Args:
        job: The job.
        connection: Client of the cluster's API; by default that of this pod or of kubeconfig.

    Raises:
        JobRejected: The cluster does not take the job, or another job has its name.
        TrainingFailed: The training failed and would fail again.
        ClusterFailure: The cluster failed; another try may succeed.
    """
    kind = JOB_KINDS[job.config.backend]
    body = kind.render(job)
    settings = job.cluster.job
    api = ClusterApi(
        connection or connect(job.config.nodes), settings.namespace or own_namespace(), kind, settings.api_patience_s
    )
    _Launch(job, kind, body, api).run()


class _Launch:
    """One launcher's work for one job."""

    def __init__(self, job: TrainingJob, kind: JobKind, body: dict[str, Any], api: ClusterApi) -> None:
        self._job = job
        self._kind = kind
        self._body = body
        self._api = api
        self._name = body["metadata"]["name"]
        self._what = f"{kind.kind} {api.namespace}/{self._name}"
        self._record = job.log_folder.parent / _RECORD
        self._poll_s = job.cluster.job.poll_s
        self._submitted = False

    def run(self) -> None:
        with _signals_raise():
            try:
                self._follow(self._attach())
            except KeyboardInterrupt:
                self._cancel()
                raise

    # Submitting

    def _attach(self) -> dict[str, Any]:
        """Return the job on the cluster: a new one, or the one that is there when it is the same work."""
        while True:
            found = self._api.get_job(self._name)
            if found is None:
                self._submitted = True
                found = self._api.create_job(self._body)
                if found is None:
                    continue  # an earlier try's answer was lost, or another launcher was quicker
                self._note(found)
                config = self._job.config
                print(
                    f"{self._what} created: {config.nodes} x {config.processes_per_node} processes. "
                    f"kubectl -n {self._api.namespace} describe {self._kind.plural} {self._name}",
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
            TrainingFailed: The job failed before in this run, for a reason that another try can't help.
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
            if same and ours and record.get("run_id") == self._job.run_id and record.get("failure"):
                raise TrainingFailed(record["failure"])
            print(f"{self._what} {status.phase} before; it is replaced by a new one", flush=True)
            self._api.delete_job(self._name, found["metadata"]["uid"])
            self._wait_until_gone(found)
            return False
        if not same:
            raise JobRejected(
                f"{self._what} runs already, with other settings (spec hash {annotations.get(HASH_ANNOTATION)}). Wait for "
                f"it, or end it: kubectl -n {self._api.namespace} delete {self._kind.plural} {self._name}"
            )
        if owner != self._job.run_id:
            self._api.annotate_job(
                self._name,
                {RUN_LABEL: label_value(self._job.run_id)},
                {OWNER_ANNOTATION: self._job.run_id},
            )
            print(f"{self._what} taken over from run {owner}", flush=True)
        else:
            print(f"{self._what} found again", flush=True)
        self._note(found)
        return True

    def _note(self, found: dict[str, Any], **values: str) -> None:
        """Write down which job works for this folder, as soon as it is known."""
        record = {"name": self._name, "uid": found["metadata"]["uid"], "run_id": self._job.run_id, **values}
        write_json(self._record, record)

    def _wait_until_gone(self, old: dict[str, Any]) -> None:
        while True:
            found = self._api.get_job(self._name)
            if found is None or found["metadata"]["uid"] != old["metadata"]["uid"]:
                return
            time.sleep(self._poll_s)

    # Following

    def _follow(self, found: dict[str, Any]) -> None:
        """Follow the job until it is over.

        Raises:
            TrainingFailed, ClusterFailure: It failed, or is gone.
        """
        uid = found["metadata"]["uid"]
        selector = self._kind.pod_selector(self._name)
        logs = LogFollower(self._api, self._kind, self._poll_s)
        waiting = _Spoken(self._job.name)
        try:
            while True:
                job = self._api.get_job(self._name)
                if job is None or job["metadata"]["uid"] != uid or job["metadata"].get("deletionTimestamp"):
                    raise ClusterFailure(
                        f"{self._what} was deleted by someone else while it trained. Run again to go on from the newest "
                        "checkpoint."
                    )
                status = self._kind.status(job)
                pods = self._api.pods(selector)
                logs.follow(pods)
                if status.over:
                    break
                waiting.say(reasons(job, status, pods, self._api.events, self._api.workloads))
                time.sleep(self._poll_s)
            logs.finish(_LAST_LOGS_S)
        finally:
            logs.finish(0)
        if status.phase == "failed":
            raise self._failure(found, status, pods, logs)
        print(f"{self._what} succeeded", flush=True)

    def _failure(
        self, found: dict[str, Any], status: JobStatus, pods: list[dict[str, Any]], logs: LogFollower
    ) -> StageError:
        def log(pod: Any) -> list[str]:
            tail = self._api.log_tail(pod["metadata"]["name"], self._kind.container, _TAIL_LINES)
            return tail or logs.kept(pod)

        error = explain(self._what, self._kind, status, pods, log)
        if isinstance(error, TrainingFailed):
            self._note(found, failure=str(error))
        return error

    # Cancelling

    def _cancel(self) -> None:
        """Delete the job if it is still this run's."""
        self._api.patience_s = _CANCEL_PATIENCE_S
        try:
            found = self._api.get_job(self._name)
            if found is None:
                return
            if (found["metadata"].get("annotations") or {}).get(OWNER_ANNOTATION) != self._job.run_id:
                print(f"{self._what} belongs to another run by now: left alone", flush=True)
                return
            self._api.delete_job(self._name, found["metadata"]["uid"])
        except VlmError as error:
            print(
                f"Can't delete {self._what}: {error} Delete it yourself: "
                f"kubectl -n {self._api.namespace} delete {self._kind.plural} {self._name}",
                flush=True,
            )
        else:
            print(f"{self._what} deleted: the run was told to stop", flush=True)


class _Spoken:
    """Says why a job waits when the reason changes, and again after ten minutes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: list[str] = []
        self._when = 0.0

    def say(self, lines: list[str]) -> None:
        now = time.monotonic()
        if lines and (lines != self._last or now - self._when >= _SAME_REASON_S):
            self._when = now
            for line in lines:
                print(f"{self._name} waits: {line}", flush=True)
        self._last = lines


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Turn SIGTERM into a KeyboardInterrupt, once: a second one must not stop the clean-up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt(f"signal {signum}")

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
