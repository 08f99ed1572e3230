"""Why a job of a cluster failed: the rank that failed first, its last lines, and whether another try may help."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.errors import StageError
from components.launch.classification import LOST_ONE_ANOTHER, reason_of
from components.launch.errors import ClusterFailure, TrainingFailed
from components.launch.evidence import Evidence, first_failure, last_lines, last_speaker, ranks_with_errors
from components.launch.job_kind import JobKind, JobStatus

Object = Mapping[str, Any]
_FIRST = datetime.datetime.min.replace(tzinfo=datetime.UTC)
_LAST = datetime.datetime.max.replace(tzinfo=datetime.UTC)
_CLOSE = datetime.timedelta(seconds=5)
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
    broken = [
        _Broken(pod, *accuse(lines, exit_of(pod, kind)[0]), first_failure(lines).when or _ended(pod, kind))
        for pod, lines in told
        if exit_of(pod, kind)[0] != 0 or first_failure(lines).code
    ]
    if not broken:
        said = f"{what} failed ({operator or 'no reason given'}); no pod that failed is left."
        return failed(said, Evidence(lost="its pods are gone"))
    cause = _cause(broken)
    pod, rank = cause.pod, cause.rank
    container = exit_of(pod, kind)[1]
    evidence = replace(cause.evidence, container=container, lost=lost(pod))
    node = kind.node_rank(pod["metadata"].get("labels") or {})
    where = f"{f'rank {rank} on ' if rank is not None else ''}node {node} (pod {pod['metadata']['name']})"
    if container == "OOMKilled":
        how = "was killed for using more memory than it may"
    elif evidence.lost:
        how = f"was lost ({evidence.lost})"
    else:
        how = f"ended with {evidence.ended}"
    return failed(f"{what} failed: {where} {how}.", evidence, evidence.text)


@dataclass(frozen=True)
class _Broken:
    """A pod that failed: the rank that is to blame on its node, and when it failed."""

    pod: Object
    rank: int | None
    evidence: Evidence
    when: datetime.datetime


def accuse(lines: Sequence[str], code: int) -> tuple[int | None, Evidence]:
    """Return the rank that is to blame for a node's failure, and what is known of it.

    Torchrun tells the first to the second. Ranks that lose another one end within that second, so if the one that it names
    has only lost the others, one that ended with an error of its own is the cause.

    Args:
        lines: The node's output, as torchrun wrote it.
        code: Torchrun's own exit code.
    """
    first = first_failure(lines)
    rank = first.rank if first.rank is not None else last_speaker(lines)
    evidence = Evidence(code=code if first.code is None else first.code, lines=last_lines(lines, rank))
    if reason_of(evidence).name == LOST_ONE_ANOTHER:
        for other in ranks_with_errors(lines):
            return other, Evidence(code=1, lines=last_lines(lines, other))
    return rank, evidence


def _cause(broken: list[_Broken]) -> _Broken:
    """Return the pod that failed first; of those within some seconds the one that knows most, for clocks and seconds are coarse."""
    began = min(one.when for one in broken)
    close = [one for one in broken if one.when - began <= _CLOSE]
    return min(close, key=lambda one: (reason_of(one.evidence).name == LOST_ONE_ANOTHER, one.when))


def exit_of(pod: Object, kind: JobKind) -> tuple[int, str]:
    """Return exit code and reason of a pod's training container; a pod that failed without a code has -1."""
    for status in pod["status"].get("containerStatuses") or []:
        terminated = (status.get("state") or {}).get("terminated")
        if status["name"] == kind.container and terminated:
            return int(terminated.get("exitCode", -1)), str(terminated.get("reason", ""))
    return (-1, str(pod["status"].get("reason", ""))) if pod["status"].get("phase") == "Failed" else (0, "")


def _ended(pod: Object, kind: JobKind) -> datetime.datetime:
    for status in pod["status"].get("containerStatuses") or []:
        terminated = (status.get("state") or {}).get("terminated")
        if status["name"] == kind.container and terminated and terminated.get("finishedAt"):
            return datetime.datetime.fromisoformat(terminated["finishedAt"])
    # Lost without a word: that came before the others noticed. One that was deleted after its ranks had ended came last.
    return _FIRST if pod["status"].get("phase") == "Failed" else _LAST


def lost(pod: Object) -> str:
    """Return how the cluster took a pod away, if it did."""
    status = pod["status"]
    for condition in status.get("conditions") or []:
        if condition["type"] == "DisruptionTarget" and condition.get("status") == "True":
            return f"{condition.get('reason', 'disrupted')}: {condition.get('message', '')}".strip(": ")
    if status.get("reason") in _LOST:
        return f"{status['reason']}: {status.get('message', '')}".strip(": ")
    return "" if status.get("containerStatuses") else "it left no status"
