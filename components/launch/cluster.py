"""Runs a training job on a cluster: submits it or finds it again, and follows it to its end."""

import time
from typing import Any

from kubernetes.client import ApiClient

from components.errors import StageError
from components.interruption import interrupted_once
from components.launch import pytorchjob, trainjob
from components.launch.api import ClusterApi, connect, own_namespace
from components.launch.errors import ClusterFailure
from components.launch.evidence import Evidence
from components.launch.failure import explain, failed
from components.launch.job import TrainingJob
from components.launch.job_kind import JobKind, JobStatus
from components.launch.logs import LogFollower, has_begun
from components.launch.runtime import check_runtime
from components.launch.stall import StallWatch, where_ranks_stand
from components.launch.submission import DYING_S, Submission
from components.launch.waiting import Spoken, hopeless, reasons

JOB_KINDS: dict[str, JobKind] = {"pytorchjob": pytorchjob.KIND, "trainjob": trainjob.KIND}
_TAIL_LINES = 2000
_LAST_LOGS_S = 30.0
_LOOKS = 3  # in a row, before a refusal of the operator's counts: it may have been about a moment between two changes


def run_on_cluster(job: TrainingJob, connection: ApiClient | None = None) -> None:
    """Submit the job, or find it, and follow it to its end, once.

    The job's name comes from its content, so that a second try, a second run or a launcher that was killed finds the
    job instead of starting another. Logs of all ranks are passed on, the rank named; while pods wait, the reasons are
    shown. SIGTERM or SIGINT deletes the job, if it is still this run's. Waiting for pods has no limit; a training that
    runs and gets no further is ended (`cluster.job.stall_s`).

    Args:
        job: The job.
        connection: Client of the cluster's API; by default that of this pod or of kubeconfig.

    Raises:
        JobRejected: The cluster does not take the job, another job has its name, or its runtime restarts ranks.
        TrainingFailed: The training failed and would fail again.
        ClusterFailure: The attempt failed; another one may succeed.
    """
    kind, settings = JOB_KINDS[job.config.backend], job.cluster.job
    api = ClusterApi(
        connection or connect(job.config.nodes), settings.namespace or own_namespace(), kind, settings.api_patience_s
    )
    submission = Submission(job, kind, api)
    with interrupted_once():
        try:
            if kind is trainjob.KIND:
                check_runtime(
                    settings.runtime, api.cluster_object(trainjob.RUNTIMES, settings.runtime), settings.grace_s
                )
            _Following(job, kind, api, submission).follow(submission.attach())
        except KeyboardInterrupt:
            submission.cancel()
            raise


class _Following:
    """Follows one job to its end."""

    def __init__(self, job: TrainingJob, kind: JobKind, api: ClusterApi, submission: Submission) -> None:
        self._job = job
        self._kind = kind
        self._api = api
        self._submission = submission
        self._what = submission.shown
        self._poll_s = job.cluster.job.poll_s
        self._hopeless = 0

    def follow(self, found: dict[str, Any]) -> None:
        """Follow the job until it is over, or until it is certain that it gets no further.

        Raises:
            TrainingFailed, ClusterFailure: It failed, or is gone.
        """
        uid = found["metadata"]["uid"]
        selector = self._kind.pod_selector(self._submission.name)
        watch = StallWatch(self._job.cluster.job.stall_s, self._job.progress.done)
        logs = LogFollower(self._api, self._kind, self._poll_s, watch.heard)
        waiting = Spoken(self._job.name)
        dying = _Dying(self._job.cluster.job.grace_s + DYING_S)
        try:
            while True:
                job = self._api.get_job(self._submission.name)
                if job is None or job["metadata"]["uid"] != uid or job["metadata"].get("deletionTimestamp"):
                    raise ClusterFailure(
                        f"{self._what} was deleted by someone else while it trained. Run again to go on from the newest "
                        "checkpoint."
                    )
                status = self._kind.status(job)
                pods = self._api.pods(selector)
                if nodes := logs.follow(pods):
                    self._say_again(nodes)
                if status.over:
                    break
                waiting.say(reasons(job, status, pods, self._api.events, self._api.workloads))
                if not self._all_run(status, pods):
                    watch.rest()
                if error := self._given_up(job, status, pods, logs, watch, dying):
                    self._submission.remove(job)
                    raise error
                time.sleep(self._poll_s)
            logs.finish(_LAST_LOGS_S)
        finally:
            logs.finish(0)
        if status.phase == "failed":
            raise self._failure(status, pods, logs)
        print(f"{self._what} succeeded", flush=True)

    def _say_again(self, nodes: list[int]) -> None:
        shown = f"node{'s' if len(nodes) > 1 else ''} {', '.join(map(str, nodes))}"
        print(
            f"{self._job.name} starts again on {shown}, in new pods, after {self._job.progress.unit} "
            f"{self._job.progress.saved()}",
            flush=True,
        )

    def _all_run(self, status: JobStatus, pods: list[dict[str, Any]]) -> bool:
        begun = [pod for pod in pods if has_begun(pod, self._kind.container)]
        return status.phase == "running" and len(begun) >= self._job.config.nodes

    def _given_up(
        self,
        job: dict[str, Any],
        status: JobStatus,
        pods: list[dict[str, Any]],
        logs: LogFollower,
        watch: StallWatch,
        dying: "_Dying",
    ) -> StageError | None:
        """Return the error of a job that is not over and will get no further by itself."""
        if status.phase == "suspended":
            dying.forget()
            return None
        never = None if self._all_run(status, pods) else hopeless(job, pods, self._api.events)
        self._hopeless = self._hopeless + 1 if never else 0
        if never and (never.image or self._hopeless >= _LOOKS):
            return failed(f"{self._what} can't start: {never.image or never.refused}.", never)
        if pod := dying.too_long(pods):
            if pod["status"].get("phase") == "Failed":
                return self._failure(status, pods, logs)
            where = f"pod {pod['metadata']['name']} on node {(pod.get('spec') or {}).get('nodeName', '?')}"
            return failed(f"{self._what} failed: {where} was deleted and does not end.", Evidence(lost=where))
        if stalled := watch.stalled():
            stand = "\n".join(where_ranks_stand(logs.outputs()))
            return failed(f"{self._what} got no further: {stalled}.", Evidence(stalled=stalled), stand)
        return None

    def _failure(self, status: JobStatus, pods: list[dict[str, Any]], logs: LogFollower) -> StageError:
        here = {pod["metadata"]["uid"] for pod in pods}
        gone = [pod for pod in logs.newest() if pod["metadata"]["uid"] not in here]

        def log(pod: Any) -> list[str]:
            if pod["metadata"]["uid"] not in here:
                return logs.kept(pod)
            tail = self._api.log_tail(pod["metadata"]["name"], self._kind.container, _TAIL_LINES)
            return tail or logs.kept(pod)

        return explain(self._what, self._kind, status, [*pods, *gone], log)


class _Dying:
    """Notes since when pods have failed or been deleted in a job that goes on regardless."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: dict[str, float] = {}

    def forget(self) -> None:
        """Take note that the job's pods are meant to end."""
        self._since.clear()

    def too_long(self, pods: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Return a pod that has been so for longer than the limit."""
        now = time.monotonic()
        ends = {
            pod["metadata"]["uid"]: pod
            for pod in pods
            if pod["metadata"].get("deletionTimestamp") or pod["status"].get("phase") == "Failed"
        }
        self._since = {uid: self._since.get(uid, now) for uid in ends}
        return next((ends[uid] for uid, since in self._since.items() if now - since > self._limit_s), None)
