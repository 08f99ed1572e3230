"""Why a job of a cluster failed: the rank that failed first, its last lines, and whether another try may help."""

from collections.abc import Callable, Mapping
from typing import Any

from components.errors import StageError
from components.launch.classification import reason_of
from components.launch.errors import ClusterFailure, TrainingFailed
from components.launch.evidence import Evidence, first_failure, last_lines, last_speaker
from components.launch.job_kind import JobKind, JobStatus

Object = Mapping[str, Any]
_LOST = ("Evicted", "NodeLost", "NodeShutdown", "Terminated", "Preempting", "UnexpectedAdmissionError")


def failed(what: str, evidence: Evidence, said: str = "") -> StageError:
    """Return the error of an attempt that failed.

    Args:
        what: What failed and how, as a sentence.
        evidence: What is known of it.
        said: The lines that tell it; shown below.

    Returns:
        `TrainingFailed` when the same job would fail again, `ClusterFailure` when another try may succeed.
    """
    reason = reason_of(evidence)
    lines = f"\n{said}" if said else ""
    if reason.verdict != "never":
        return ClusterFailure(f"{what}{lines}", reason)
    return TrainingFailed(f"{what} {reason.advice}".rstrip() + lines)


def explain(
    what: str, kind: JobKind, status: JobStatus, pods: list[dict[str, Any]], log: Callable[[Object], list[str]]
) -> StageError:
    """Return the error of a failed job.

    Args:
        what: How the job is called in the message.
        kind: Its kind.
        status: How it stands.
        pods: Its pods as they were seen last, also those that are gone.
        log: Returns the last lines of a pod's log, as torchrun wrote them.

    Returns:
        `TrainingFailed` when the same job would fail again, `ClusterFailure` when another try may succeed.
    """
    operator = f"{status.reason}: {status.message}".strip(": ")
    found = reason_of(Evidence(operator=operator))
    if found.verdict == "never":
        return TrainingFailed(f"{what} failed: {found.name} ({operator}). {found.advice}")
    told = [(pod, log(pod)) for pod in pods]
    broken = [(pod, lines) for pod, lines in told if exit_of(pod, kind)[0] != 0 or first_failure(lines)[1]]
    if not broken:
        said = f"{what} failed ({operator or 'no reason given'}); no pod that failed is left."
        return failed(said, Evidence(lost="its pods are gone"))
    pod, lines = min(broken, key=lambda one: _ended(one[0], kind))
    pod_code, container = exit_of(pod, kind)
    rank, code = first_failure(lines)
    if rank is None:
        rank, code = last_speaker(lines), pod_code
    evidence = Evidence(
        code=pod_code if code is None else code, lines=last_lines(lines, rank), container=container, lost=lost(pod)
    )
    node = kind.node_rank(pod["metadata"].get("labels") or {})
    where = f"{f'rank {rank} on ' if rank is not None else ''}node {node} (pod {pod['metadata']['name']})"
    if container == "OOMKilled":
        how = "was killed for using more memory than it may"
    elif evidence.lost:
        how = f"was lost ({evidence.lost})"
    else:
        how = f"ended with {evidence.ended}"
    return failed(f"{what} failed: {where} {how}.", evidence, evidence.text)


def exit_of(pod: Object, kind: JobKind) -> tuple[int, str]:
    """Return exit code and reason of a pod's training container; a pod that failed without a code has -1."""
    for status in pod["status"].get("containerStatuses") or []:
        terminated = (status.get("state") or {}).get("terminated")
        if status["name"] == kind.container and terminated:
            return int(terminated.get("exitCode", -1)), str(terminated.get("reason", ""))
    return (-1, str(pod["status"].get("reason", ""))) if pod["status"].get("phase") == "Failed" else (0, "")


def _ended(pod: Object, kind: JobKind) -> str:
    for status in pod["status"].get("containerStatuses") or []:
        terminated = (status.get("state") or {}).get("terminated")
        if status["name"] == kind.container and terminated:
            return str(terminated.get("finishedAt") or "~")
    # Lost without a word: that came before the others noticed. One that was deleted after its ranks had ended came last.
    return "" if pod["status"].get("phase") == "Failed" else "~"


def lost(pod: Object) -> str:
    """Return how the cluster took a pod away, if it did."""
    status = pod["status"]
    for condition in status.get("conditions") or []:
        if condition["type"] == "DisruptionTarget" and condition.get("status") == "True":
            return f"{condition.get('reason', 'disrupted')}: {condition.get('message', '')}".strip(": ")
    if status.get("reason") in _LOST:
        return f"{status['reason']}: {status.get('message', '')}".strip(": ")
    return "" if status.get("containerStatuses") else "it left no status"
