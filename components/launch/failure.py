"""Why a job failed: the rank that failed first, its last lines, and whether another try may help."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from components.errors import StageError
from components.launch.errors import ClusterFailure, TrainingFailed
from components.launch.job_kind import JobKind, JobStatus

Object = Mapping[str, Any]
_LAST_LINES = 20
_ROOT_CAUSE = re.compile(r"Root Cause \(first observed failure\):")
_RANK = re.compile(r"rank\s*:\s*(\d+)")
_EXIT_CODE = re.compile(r"exitcode\s*:\s*(-?\d+)")
_RANK_LINE = re.compile(r"^\[rank (\d+)\] ?(.*)$")
_TORCH_PREFIX = re.compile(r"^\[rank\d+\]: ?")  # what torch puts before an uncaught exception's lines
_AGAIN = "Another try goes on from the newest checkpoint."


def explain(
    what: str, kind: JobKind, status: JobStatus, pods: list[dict[str, Any]], log: Callable[[Object], list[str]]
) -> StageError:
    """Return the error of a failed job.

    Args:
        what: How the job is called in the message.
        kind: Its kind.
        status: How it stands.
        pods: Those of its pods that are left.
        log: Returns the last lines of a pod's log, as torchrun wrote them.

    Returns:
        `TrainingFailed` when the same job would fail again, `ClusterFailure` when another try may succeed.
    """
    failed = sorted((pod for pod in pods if _exit(pod, kind)[0] != 0), key=lambda pod: _ended(pod, kind))
    said = f"{status.reason}: {status.message}".strip(": ")
    if "DeadlineExceeded" in status.reason or "longer than specified deadline" in status.message:
        return TrainingFailed(f"{what} ran longer than cluster.job.deadline_s ({said}). Raise it and run again.")
    if not failed:
        return ClusterFailure(f"{what} failed ({said or 'no reason given'}); no pod that failed is left. {_AGAIN}")
    pod = failed[0]
    name, node = pod["metadata"]["name"], kind.node_rank(pod["metadata"].get("labels") or {})
    code, reason = _exit(pod, kind)
    lines = log(pod)
    rank, rank_code = _first_failure(lines)
    if rank is None:
        rank, rank_code = _last_speaker(lines), code
    where = f"{f'rank {rank} on ' if rank is not None else ''}node {node} (pod {name})"
    last = _last_lines(lines, rank)
    if reason == "OOMKilled":
        return TrainingFailed(
            f"{what} failed: {where} was killed for using more memory than it may. Raise cluster.gpu_memory, or lower "
            f"loader_workers or shuffle_buffer.\n{last}"
        )
    lost = _lost(pod)
    if lost:
        return ClusterFailure(f"{what} failed: {where} was lost ({lost}). {_AGAIN}\n{last}")
    ended = f"exit code {rank_code}" if rank_code >= 0 else f"signal {-rank_code}"
    if rank_code == 1 and any(_text(line).startswith("ERROR: ") for line in lines):
        return TrainingFailed(f"{what} failed: {where} ended with {ended}.\n{last}")
    return ClusterFailure(f"{what} failed: {where} ended with {ended}. {_AGAIN}\n{last}")


def _exit(pod: Object, kind: JobKind) -> tuple[int, str]:
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
    return ""  # lost without a word: that came before the others noticed


def _lost(pod: Object) -> str:
    """Return how the cluster took a pod away, if it did."""
    status = pod["status"]
    for condition in status.get("conditions") or []:
        if condition["type"] == "DisruptionTarget" and condition.get("status") == "True":
            return f"{condition.get('reason', 'disrupted')}: {condition.get('message', '')}".strip(": ")
    if status.get("reason") in (
        "Evicted",
        "NodeLost",
        "NodeShutdown",
        "Terminated",
        "Preempting",
        "UnexpectedAdmissionError",
    ):
        return f"{status['reason']}: {status.get('message', '')}".strip(": ")
    return "" if status.get("containerStatuses") else "it left no status"


def _first_failure(lines: list[str]) -> tuple[int | None, int]:
    """Return rank and exit code of torchrun's own account of what failed first."""
    starts = [index for index, line in enumerate(lines) if _ROOT_CAUSE.search(line)]
    if not starts:
        return None, 1
    account = "\n".join(lines[starts[-1] : starts[-1] + 10])
    rank, code = _RANK.search(account), _EXIT_CODE.search(account)
    return (int(rank.group(1)) if rank else None), (int(code.group(1)) if code else 1)


def _last_speaker(lines: list[str]) -> int | None:
    for line in reversed(lines):
        if match := _RANK_LINE.match(line):
            return int(match.group(1))
    return None


def _last_lines(lines: list[str], rank: int | None) -> str:
    """Return a rank's last lines, from its last error on; the whole pod's when the rank is not known."""
    own = [_text(line) for line in lines if rank is None or line.startswith(f"[rank {rank}] ")]
    own = [line for line in own if line.strip()]
    errors = [index for index, line in enumerate(own) if line.startswith(("ERROR: ", "Traceback"))]
    return "\n".join((own[errors[-1] :] if errors else own)[-_LAST_LINES:])


def _text(line: str) -> str:
    match = _RANK_LINE.match(line)
    return _TORCH_PREFIX.sub("", match.group(2) if match else line)
